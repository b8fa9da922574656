"""The timeline strip shows the slices of its window at their times, with an arrow from each load to its use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from experiments.explain import ConfigError
from experiments.figures import timeline_strip as module
from experiments.figures.style import COLUMN_IN
from experiments.figures.timeline_strip import timeline_strip
from simulator.result import Result
from simulator.timeline import timeline_of
from tests.helpers import EXPERT_BYTES, run, tiny_model, tiny_platform, tiny_trace

LOAD_US = 1.0 + EXPERT_BYTES * 1e-3  # 1 us and 1 GB/s


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    monkeypatch.setattr(module, "save", lambda drawing, stem: figures.append(drawing) or [])
    return figures


def three_tokens(**options: Any) -> Result:
    """Experts 0 then 1; the same again; 2 then 1: so one load in the third token."""
    trace = tiny_trace([[[[0], [1]], [[0], [1]], [[2], [1]]]])
    return run(tiny_model(2, 4, 1), trace, tiny_platform(), cache_bytes=8 * EXPERT_BYTES, **options)


def bars(drawing: Figure) -> dict[str, list[tuple[float, float]]]:
    """Row -> begin and end of each bar, in the unit of the axis."""
    axes = drawing.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for collection in axes.collections:
        if isinstance(collection, PolyCollection):
            for path in collection.get_paths():
                low, high = path.vertices.min(axis=0), path.vertices.max(axis=0)
                found[names[round((low[1] + high[1]) / 2)]].append((low[0], high[0]))
    return {name: sorted(row) for name, row in found.items()}


def test_bars_lie_where_the_slices_are_and_the_axis_has_its_unit(drawn: list[Figure], tmp_path: Path):
    """The third token from its start, in microseconds: one load, right behind the router of layer 0."""
    result = three_tokens()
    start_s = result.steps.start_s[2]
    timeline_strip(result, tmp_path / "strip", start_s=start_s)
    (drawing,) = drawn
    axes = drawing.axes[0]
    assert axes.get_xlabel() == "time (µs)"
    assert axes.get_xlim() == pytest.approx((0, 1e6 * result.steps.latency_s[2]))
    rows = bars(drawing)
    ((begin, end),) = rows["dram → gpu0"]
    assert end - begin == pytest.approx(LOAD_US)
    assert begin == pytest.approx(rows["gpu0"][0][1])
    start_ps = round(start_s * 1e12)
    computed = [s for s in timeline_of(result.run).slices if s.track.name == "compute" and s.begin_ps >= start_ps]
    spans = [((s.begin_ps - start_ps) * 1e-6, (s.end_ps - start_ps) * 1e-6) for s in computed]
    np.testing.assert_allclose(rows["gpu0"], spans, rtol=1e-9)
    (arrow,) = axes.texts
    assert arrow.xyann[0] == pytest.approx(end)
    assert arrow.xy == pytest.approx((end, 0.31))  # the lower edge of the upper row


def test_without_a_window_it_is_the_decode_step_in_the_middle(drawn: list[Figure], tmp_path: Path):
    """The second of three: all hits, so there is no lane and no arrow."""
    result = three_tokens()
    timeline_strip(result, tmp_path / "strip")
    assert list(bars(drawn[0])) == ["gpu0"]
    assert not drawn[0].axes[0].texts
    assert drawn[0].axes[0].get_xlim()[1] == pytest.approx(1e6 * result.steps.latency_s[1])


def test_layers_are_named_along_the_upper_edge(drawn: list[Figure], tmp_path: Path):
    timeline_strip(three_tokens(), tmp_path / "strip")
    (upper,) = drawn[0].axes[0].child_axes
    assert upper.get_xlabel() == "layer"
    assert [label.get_text() for label in upper.get_xticklabels()] == ["0", "1"]


def test_it_is_written_as_png_and_pdf_with_the_same_bytes_each_time(tmp_path: Path):
    result = three_tokens()
    files = [timeline_strip(result, tmp_path / name / "strip", width_in=COLUMN_IN) for name in "ab"]
    assert [path.name for path in files[0]] == ["strip.png", "strip.pdf"]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(("start_s", "stop_s"), [(10.0, None), (10.0, 20.0), (2e-5, 1e-5), (-1.0, -0.5)])
def test_a_window_without_anything_is_refused(start_s: float, stop_s: float | None, tmp_path: Path):
    with pytest.raises(ConfigError, match="nothing was recorded there; expected a window that touches a recorded step"):
        timeline_strip(three_tokens(), tmp_path / "strip", start_s, stop_s)


def test_a_run_that_was_not_recorded_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="expected timeline=true"):
        timeline_strip(three_tokens(timeline=False), tmp_path / "strip")
