"""What a notebook shows of a result, a platform, a system, a model and a trace."""

import dataclasses
import functools
from html.parser import HTMLParser

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from hwmodels import Platform
from hwmodels.drawing import _BOX_IN, MOST_LABELS, platform_figure, platform_svg
from hwmodels.units import UNITS, format_quantity, parse_quantity
from simulator.policies.cache.lfu import Lfu
from tests.helpers import CONF, real_trace, run, shipped, system, tiny_model, tiny_platform, tiny_trace

PLATFORMS = sorted(path.stem for path in (CONF / "platform").glob("*.yaml"))
VOID = {"br", "hr", "img", "meta"}
NASTY = '<script>alert("x")</script> & $a$'


class Reader(HTMLParser):
    """Refuses elements that are closed out of order or not at all; gathers the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def result():
    """Two tokens, two layers, a cold cache: every layer asks for two experts."""
    trace = tiny_trace([[[[0, 1], [2, 3]], [[0, 1], [2, 3]]]])
    return run(tiny_model(), trace, tiny_platform(), system(cache=functools.partial(Lfu, history=True)))


def nasty_platform() -> Platform:
    platform = shipped("platform", "rtx_3060")
    platform["name"] = platform["description"] = platform["devices"]["gpu0"]["source"] = NASTY
    for link in platform["links"]:
        link["name"] += NASTY
    platform["devices"]["<b>"] = {"kind": "switch", "source": NASTY}
    return Platform.from_mapping(platform)


@pytest.mark.parametrize("name", PLATFORMS)
def test_a_platform_shows_the_bandwidth_of_every_link_and_memory(name):
    platform = Platform.from_mapping(shipped("platform", name))
    svg, page = Reader(platform_svg(platform)), Reader(platform._repr_html_())
    for link in platform.links:
        assert link.name in page.text
        assert len(platform.links) > MOST_LABELS or link.name in svg.text  # of many that are alike one stands for all
        for text in (svg.text, page.text):
            assert format_quantity(link.bandwidth_bytes_per_s, "bytes_per_s") in text
        assert link.source in page.text
    for device in platform.devices.values():
        assert device.name in svg.text
        assert device.source in page.text
        if device.memory_read_bytes_per_s:
            assert format_quantity(device.memory_read_bytes_per_s, "bytes_per_s") in svg.text


@pytest.mark.parametrize("name", [*PLATFORMS, "four workers"])
def test_no_label_of_a_platform_lies_over_another_or_leaves_the_picture(name):
    four = name == "four workers"
    figure = platform_figure(tiny_platform(4) if four else Platform.from_mapping(shipped("platform", name)))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert box.width < _BOX_IN[0] * figure.dpi
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_the_picture_of_a_platform_is_the_same_each_time():
    first, second = (platform_svg(tiny_platform(2, dram_bytes_per_s=rate)) for rate in (4e9, 4e9))
    assert first == second
    assert "<dc:date>" not in first


def test_text_of_the_user_is_escaped(result):
    scenario = result.run.scenario
    texts = [
        nasty_platform()._repr_html_(),
        dataclasses.replace(scenario.system, name=NASTY)._repr_html_(),
        dataclasses.replace(scenario.model, name=NASTY, source=NASTY)._repr_html_(),
    ]
    trace = real_trace("olmoe_1b_7b")
    trace.meta = dataclasses.replace(trace.meta, model=NASTY, notes=NASTY)
    texts.append(trace._repr_html_())
    for text in texts:
        page = Reader(text)
        assert "script" not in page.tags
        assert "b" not in page.tags
        assert NASTY in page.text


def test_a_result_shows_its_summary_its_time_and_its_origin(result):
    page = Reader(result._repr_html_())
    assert f"{result.summary['tokens_per_s']:.2f}" in page.text
    # the first token loads two experts in both layers, the second finds all four: 4 of 8
    assert "50.0 %" in page.text
    for cause, share in result.summary["attribution"].items():
        assert f"{100 * share:.1f} %" in page.text, cause
    assert result.provenance["trace"]["digest"][:12] in page.text
    assert "seed 0" in page.text
    assert "tiny on tiny" in page.text


def test_a_result_is_one_line_where_there_is_no_html(result):
    # one request of two tokens: two steps
    assert repr(result) == f"<Result of {result.run.scenario.system.name}: tiny on tiny, 2 steps>"


def test_a_system_shows_the_choice_of_each_role_with_its_parameters(result):
    page = Reader(result.run.scenario.system._repr_html_())
    for text in ("host_cache", "Lfu", "history=True", "Drops the experts used least often", "GlobalSlots"):
        assert text in page.text


def test_a_model_shows_the_parameters_of_its_parts():
    model = tiny_model()
    page = Reader(model._repr_html_())
    # an expert has gate, up and down of 32 x 64 weights; two layers of four experts
    assert f"{3 * 32 * 64 * 4 * 2:,}" in page.text
    assert f"{model.total_params:,}" in page.text


def test_a_trace_shows_what_was_recorded():
    page = Reader(real_trace("gpt_oss_20b")._repr_html_())
    for text in ("32, 4 per token", "gate weights", "Apache-2.0", "of 40 requests"):
        assert text in page.text


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("value", [1.0, 2.5e-5, 999.0, 1024.0, 3.0 * 2**30, 1.25e12, 7e15])
def test_a_written_quantity_reads_back_to_four_digits(unit, value):
    # four significant digits: at most half a unit in the fourth, 5e-4 of the value
    assert parse_quantity(format_quantity(value, unit), unit) == pytest.approx(value, rel=5e-4)
