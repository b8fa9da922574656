"""Figures: their files, that nothing is cut, and that what is drawn is what the table says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from experiments.compose import compose_config
from experiments.explain import ConfigError
from experiments.figures.bars import bars, speedup_bars
from experiments.figures.cache_size import cache_size_curves
from experiments.figures.cache_size_grid import cache_size_grid
from experiments.figures.curves import metric_curves
from experiments.figures.expert_load import expert_load_map
from experiments.figures.latency import latency_cdf
from experiments.figures.pareto import pareto_front
from experiments.figures.policies import energy_stacks, speed_bars, time_stacks
from experiments.figures.roofline import roofline, roofline_points
from experiments.figures.sensitivity import effects, tornado
from experiments.figures.style import COLOURS, MARKERS, shown
from experiments.figures.table import quantity
from hwmodels import Device, Platform
from simulator.model import ModelSpec

NAN = float("nan")
LONG = "on_demand_lru with policy/cache=lfu policy/prediction=transition $x$"

POINTS = pd.DataFrame(
    {
        "point": range(6),
        "platform": ["rtx_3060"] * 3 + ["rtx_4090"] * 3,
        "policy.cache": ["lru", "lfu", LONG] * 2,
        "tokens_per_s": [40.0, 20.0, 80.0, 100.0, 25.0, 400.0],
        "tpot_mean_s": [0.025, 0.050, 0.0125, 0.010, 0.040, 0.0025],
        "low_s": [0.020, 0.045, 0.0120, 0.009, 0.030, 0.0020],
        "high_s": [0.035, 0.060, 0.0130, 0.012, 0.045, 0.0040],
    }
)
FIRST = POINTS.head(3)
SIZES = pd.DataFrame(
    {
        "policy": ["lru", "lru", "lfu", "lfu"],
        "cache_gib": [2.0, 4.0, 4.0, 2.0],
        "hit_rate": [0.5, 0.75, 0.7, 0.4],
        "tpot_s": [0.040, 0.020, 0.022, 0.048],
        "reference_hit_rate": [0.6, 0.9, NAN, NAN],
        "reference_tpot_s": [0.030, 0.015, NAN, NAN],
        "physics_tpot_s": [0.010, 0.010, 0.009, 0.010],
    }
)
GRID = pd.DataFrame(  # two models, two machines, two sizes; the second system has no run of the second model
    [
        {"system": system, "model": model, "platform": platform, "cache_gib": gib, "tpot_s": tpot_s / gib}
        for model, systems in (("small", ("LRU", "ahead", "fewer")), ("large", ("LRU", "fewer")))
        for platform, slow in (("slow", 2.0), ("fast", 1.0))
        for system, tpot_s in zip(systems, (0.08 * slow, 0.04 * slow, 0.02), strict=False)
        for gib in (4.0, 2.0)
    ]
)
GRID = GRID.assign(reference_tpot_s=(GRID["tpot_s"] / 4).where(GRID["system"] == "LRU"), physics_tpot_s=0.002)
GRID.loc[GRID["system"] == "fewer", "physics_tpot_s"] = 0.001  # it does less work; the limits are those of LRU
SHARES = FIRST.assign(pcie_share=[0.5, 0.6, NAN], hbm_share=[0.4, 0.3, 0.9], overhead_share=[0.1, 0.1, 0.1])
PARTS_J = {"attention": 0.0, "gemm": [0.4, 0.3], "experts": [0.5, 0.4], "head": 0.0, "transfers": [0.1, 0.1]}
ENERGY = pd.DataFrame({"policy.cache": ["lru", "lfu"], "energy_per_token_j": [2.0, 1.6]}).assign(
    **{f"energy_{part}_per_token_j": values for part, values in {**PARTS_J, "background": [1.0, 0.8]}.items()}
)
STEPS = pd.DataFrame({"step": range(101), "phase": "decode", "warmup": False, "latency_s": np.arange(101) / 1000})
LOADS = pd.DataFrame({"layer": [0, 0, 1, 1], "expert": [0, 1, 0, 1], "selections": [1, 3, 0, 0]})
TRIED = pd.DataFrame(
    {
        "point": range(6),
        "cache_gib": [4.0, 2.0, 8.0, 4.0, 4.0, 2.0],
        "policy.cache": ["lru", "lru", "lru", "lfu", "belady", "lfu"],
        "seed": 0,
        "tpot_mean_s": [0.020, 0.030, 0.016, 0.021, 0.012, 0.5],
    }
)


LOADED = pd.DataFrame(  # rows in no order
    {
        "system": ["a", "a", "b", "b", "a"],
        "workload.rate_per_s": [4.0, 1.0, 1.0, 4.0, 2.0],
        "ttft_p50_s": [0.9, 0.1, 0.2, 1.0, 0.3],
        "ttft_p99_s": [8.0, 0.4, 0.5, 9.0, 1.5],
        "slo_attainment": [0.25, 1.0, 0.9, 0.0, 0.75],
    }
)


def machine(platform: str = "rtx_3060", model: str = "gpt_oss_20b") -> tuple[ModelSpec, Device]:
    cfg = compose_config([f"model={model}", f"platform={platform}"])
    described = Platform.from_mapping(cfg.platform)
    return ModelSpec.from_mapping(cfg.model), described.device(described.workers[0])


def draw_roofline(frame: pd.DataFrame, stem: Path) -> list[Path]:
    return roofline(frame, machine()[1], stem)


KINDS: dict[str, tuple[Callable[..., list[Path]], Any, dict[str, Any], set[str]]] = {
    "bars": (
        bars,
        POINTS,
        {"value": "tpot_mean_s", "category": "platform", "group": "policy.cache", "low": "low_s", "high": "high_s"},
        {"time per token (ms)"},
    ),
    "laid bars": (bars, FIRST, {"value": "tokens_per_s", "category": "policy.cache"}, {"decoding speed (tokens/s)"}),
    "speed-up": (
        speedup_bars,
        POINTS,
        {"value": "tokens_per_s", "category": "platform", "group": "policy.cache", "baseline": "lru"},
        {"speed-up over lru (×)"},  # noqa: RUF001
    ),
    "cache size": (
        cache_size_curves,
        SIZES,
        {"width_in": 3.3},
        {"hit rate (%)", "time per token (ms)", "expert cache (GiB)"},
    ),
    "curves": (
        metric_curves,
        LOADED,
        {"x": "workload.rate_per_s", "series": "system", "panels": [["ttft_p50_s", "ttft_p99_s"], ["slo_attainment"]]},
        {"time to first token (s)", "requests within SLO (%)", "requests that come (1/s)"},
    ),
    "cache size grid": (
        cache_size_grid,
        GRID,
        {
            **{"series": "system", "rows": "model", "columns": "platform", "time": "tpot_s", "baseline": "LRU"},
            **{"groups": {"fetched": ["ahead"], "dropped": ["none", "fewer"]}, "dashed": ["fewer"]},
        },
        {"small\ntime per token (ms)", "large\ntime per token (ms)", "expert cache (GiB)"},
    ),
    "latency": (latency_cdf, STEPS, {}, {"latency (ms)", "share of decode steps (%)"}),
    "time": (time_stacks, SHARES, {"name": "policy.cache", "time": "tpot_mean_s"}, {"time per decoded token (ms)"}),
    "energy": (energy_stacks, ENERGY, {"name": "policy.cache"}, {"energy per token (J)"}),
    "roofline": (
        draw_roofline,
        None,
        {},
        {"arithmetic intensity (FLOP/byte)", "performance (GFLOP/s)"},
    ),
    "load": (
        expert_load_map,
        LOADS,
        {},
        {"layer", "expert", "load of an expert (tokens)", "max/mean\nload (×)"},  # noqa: RUF001
    ),
    "pareto": (
        pareto_front,
        POINTS,
        {"x": "tpot_mean_s", "y": "tokens_per_s", "minimise": ["tpot_mean_s"], "maximise": ["tokens_per_s"]},
        {"time per token (ms), ← better", "decoding speed (tokens/s), better →"},
    ),
    "tornado": (
        tornado,
        TRIED,
        {"metric": "tpot_mean_s", "factors": ["cache_gib", "policy.cache"]},
        {"change of time per token (%)\nbase: 20 ms"},
    ),
}


def table_of(kind: str) -> Any:
    return roofline_points(*machine(), tokens=(1, 16)) if kind == "roofline" else KINDS[kind][1]


def draw(kind: str, frame: pd.DataFrame, stem: Path) -> list[Path]:
    function, _, options, _ = KINDS[kind]
    return function({LONG: frame} if kind == "latency" else frame, stem=stem, **options)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, in order; nothing is rendered."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: figures.append(self))
    return figures


def heights(figure: Figure) -> dict[str, list[float]]:
    """Heights of upright bars by the label of their kind."""
    return {c.get_label(): [bar.get_height() for bar in c] for c in figure.axes[0].containers if hasattr(c, "patches")}


# ---- every kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_is_a_png_and_a_pdf_with_the_same_bytes_each_time_and_nothing_cut(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    savefig = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: (figures.append(self), savefig(self, *args, **options))
    )
    first, again = (draw(kind, table_of(kind), tmp_path / folder / "cache_2.5") for folder in ("a", "b"))
    assert [path.name for path in first] == ["cache_2.5.png", "cache_2.5.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    box, (width_in, height_in) = figures[0].get_tightbbox(), figures[0].get_size_inches()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width_in
    assert box.y1 <= height_in


@pytest.mark.parametrize("kind", KINDS)
def test_every_axis_says_what_it_shows_and_in_which_unit(kind: str, tmp_path: Path, drawn: list[Figure]) -> None:
    draw(kind, table_of(kind), tmp_path / "x")
    labels = {text for axes in drawn[0].axes for text in (axes.get_xlabel(), axes.get_ylabel()) if text}
    assert labels == KINDS[kind][3]


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_without_rows_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^figure x: the table has no rows; expected at least one\.$"):
        draw(kind, table_of(kind).head(0), tmp_path / "x")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("speed-up", "tornado")])
def test_a_single_row_makes_a_figure(kind: str, tmp_path: Path, drawn: list[Figure]) -> None:
    draw(kind, table_of(kind).head(1), tmp_path / "x")
    assert len(drawn) == 2


def test_what_is_not_a_column_or_no_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no column 'tokens_per_z'; did you mean 'tokens_per_s'\?$"):
        bars(POINTS, tmp_path / "x", value="tokens_per_z", category="platform")
    with pytest.raises(ConfigError, match="column 'platform' holds 'rtx_3060'; expected numbers"):
        bars(FIRST, tmp_path / "x", value="platform", category="policy.cache")
    with pytest.raises(ConfigError, match="column 'tpot_mean_s' is empty in every row"):
        bars(FIRST.assign(tpot_mean_s=None), tmp_path / "x", value="tpot_mean_s", category="policy.cache")


def test_rows_that_would_share_a_bar_are_refused_with_the_column_in_which_they_differ(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 rows have policy.cache lru; expected one \(they differ in 'platform'"):
        bars(POINTS, tmp_path / "x", value="tpot_mean_s", category="policy.cache")


# ---- one by one


def test_bars_are_as_high_as_their_values_and_intervals_reach_their_ends(tmp_path: Path, drawn: list[Figure]) -> None:
    draw("bars", POINTS, tmp_path / "x")
    assert heights(drawn[0])["lru"] == pytest.approx([25.0, 10.0])  # ms, on the RTX 3060 and 4090
    errors = next(c for c in drawn[0].axes[0].containers if hasattr(c, "has_yerr"))
    (line,) = errors.lines[2]
    assert [tuple(segment[:, 1]) for segment in line.get_segments()] == [
        pytest.approx((20.0, 35.0)),
        pytest.approx((9.0, 12.0)),
    ]


def test_a_value_that_is_missing_is_written_as_such(tmp_path: Path, drawn: list[Figure]) -> None:
    frame = FIRST.assign(tokens_per_s=[40.0, None, 80.0])
    bars(frame, tmp_path / "x", value="tokens_per_s", category="policy.cache")
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert sorted(texts) == ["40", "80", "n/a"]


def test_an_interval_that_does_not_hold_its_value_is_refused(tmp_path: Path) -> None:
    options = {"value": "tpot_mean_s", "category": "policy.cache", "low": "high_s", "high": "low_s"}
    with pytest.raises(ConfigError, match=r"'high_s' is 0.035 for lru, above the value 0.025"):
        bars(FIRST, tmp_path / "x", **options)


def test_ratios_have_a_solid_line_at_one_with_the_baselines_name_however_low_they_are(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    frame = POINTS.assign(ratio=[0.5, 0.4, 0.6, 0.3, 0.2, 0.7])
    options = {"value": "ratio", "category": "platform", "group": "policy.cache"}
    bars(frame, tmp_path / "x", baseline="LRU", **options)
    (line,) = (line for line in drawn[0].axes[0].lines if set(line.get_ydata()) == {1.0})
    assert (line.get_linestyle(), line.get_linewidth()) == ("-", 1.2)
    assert line.get_zorder() > max(bar.get_zorder() for bar in drawn[0].axes[0].patches)
    assert drawn[0].axes[0].get_ylim()[1] > 1.0
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["LRU"]


def test_speed_up_divides_rates_by_the_baseline_and_ends_with_the_geometric_mean(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    draw("speed-up", POINTS, tmp_path / "x")
    # lfu 20/40 and 25/100, mean sqrt(0.5 · 0.25); the other 80/40 and 400/100, mean sqrt(2 · 4)
    assert list(heights(drawn[0]).values()) == [
        pytest.approx([0.5, 0.25, 0.125**0.5]),
        pytest.approx([2.0, 4.0, 8**0.5]),
    ]
    names = [text.get_text() for text in drawn[0].axes[0].get_xticklabels()]
    assert names == ["rtx_3060", "rtx_4090", "geo. mean"]


def test_speed_up_in_time_is_the_baselines_time_over_the_others(tmp_path: Path, drawn: list[Figure]) -> None:
    speedup_bars(FIRST, tmp_path / "x", value="tpot_mean_s", group="policy.cache", baseline="lru")
    widths = [bar.get_width() for bar in drawn[0].axes[0].patches]
    assert widths == pytest.approx([25 / 50, 25 / 12.5])


def test_the_geometric_mean_leaves_out_categories_that_lack_a_group(tmp_path: Path, drawn: list[Figure]) -> None:
    draw("speed-up", POINTS.head(5), tmp_path / "x")  # the RTX 4090 has no run with the long name
    assert list(heights(drawn[0]).values()) == [pytest.approx([0.5, 0.25, 0.5]), pytest.approx([2.0, 2.0])]
    assert drawn[0].axes[0].get_xticklabels()[-1].get_text() == "geo. mean of 1"


def test_speed_ups_a_hundredfold_apart_stand_on_a_logarithmic_axis_from_one(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    frame = FIRST.assign(tokens_per_s=[10.0, 5.0, 1000.0])
    speedup_bars(frame, tmp_path / "x", value="tokens_per_s", group="policy.cache", baseline="lru")
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log"
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches] == [(1.0, 0.5), (1.0, 100.0)]


def test_a_baseline_that_no_row_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no row has policy.cache lruu, the baseline; did you mean 'lru'\?"):
        speedup_bars(FIRST, tmp_path / "x", value="tokens_per_s", group="policy.cache", baseline="lruu")


def test_cache_size_curves_rise_with_the_size_and_show_reference_and_bound(tmp_path: Path, drawn: list[Figure]) -> None:
    draw("cache size", SIZES, tmp_path / "x")
    hits, times = ({str(line.get_label()): line for line in axes.lines} for axes in drawn[0].axes)
    assert hits["lfu"].get_xydata().tolist() == [[2.0, 40.0], [4.0, 70.0]]
    assert times["clairvoyant reference"].get_xydata() == pytest.approx(np.array([[2.0, 30.0], [4.0, 15.0]]))
    assert times["physics bound"].get_xydata() == pytest.approx(np.array([[2.0, 10.0], [4.0, 9.0]]))
    assert hits["_child2"].get_xydata().tolist() == [[2.0, 60.0], [4.0, 90.0]]
    assert drawn[0].axes[0].get_xlim() == pytest.approx((1.9, 4.1))  # 2 to 4 GiB and a twentieth on both sides


def test_a_cache_size_left_to_the_run_comes_from_its_bytes(tmp_path: Path, drawn: list[Figure]) -> None:
    cache_size_curves(
        SIZES.head(2).assign(cache_gib=[2.0, None], cache_bytes=[2 * 2**30, 6 * 2**30]), tmp_path / "x", width_in=3.3
    )
    assert drawn[0].axes[0].lines[0].get_xdata().tolist() == [2.0, 6.0]


def test_curves_have_a_panel_for_each_list_of_metrics_with_dashes_that_tell_these_apart(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    draw("curves", LOADED, tmp_path / "x")
    latency, attained = drawn[0].axes
    a_p50, a_p99, b_p50, b_p99 = [line for line in latency.lines if len(line.get_xdata())]
    assert a_p50.get_xydata() == pytest.approx(np.array([[1, 0.1], [2, 0.3], [4, 0.9]]))
    assert b_p99.get_xydata() == pytest.approx(np.array([[1, 0.5], [4, 9.0]]))
    assert [line.get_linestyle() for line in (a_p50, b_p50, a_p99, b_p99)] == ["-", "-", "--", "--"]
    assert a_p50.get_color() == a_p99.get_color() != b_p50.get_color()
    assert latency.get_yscale() == "log"  # 0.1 to 9 s
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["a", "b", "p50", "p99"]
    assert attained.lines[0].get_ydata().tolist() == [100.0, 75.0, 25.0]
    assert attained.get_ylim() == (0, 100)


@pytest.mark.parametrize(
    ("panels", "sentence"),
    [
        (
            [["ttft_p50_s", "slo_attainment"]],
            "ttft_p50_s and slo_attainment differ in their unit; expected one a panel",
        ),
        ([[]], "a panel has 0 metrics; expected 1 to 3"),
    ],
)
def test_a_panel_of_what_cannot_share_an_axis_is_refused(tmp_path: Path, panels: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^figure x: {sentence}\\.$"):
        metric_curves(LOADED, tmp_path / "x", x="workload.rate_per_s", series="system", panels=panels)


def test_counts_have_no_ticks_between_them_and_categories_that_are_numbers_say_of_what(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    table = pd.DataFrame({"tenants.count": [2, 4], "fits": [2.0, 3.0]})
    bars(table, tmp_path / "x", value="fits", category="tenants.count", horizontal=False)
    (axes,) = drawn[0].axes
    assert axes.get_xlabel() == "instances"
    assert all(tick == round(tick) for tick in axes.get_yticks())


def lines_of(axes: Any) -> dict[str, Any]:
    return {str(line.get_label()): line for line in axes.lines}


def test_a_grid_has_a_panel_for_each_model_and_machine_with_the_baselines_limits(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    draw("cache size grid", GRID, tmp_path / "x")
    panels = [axes for axes in drawn[0].axes if axes.lines]
    assert [axes.get_title() for axes in panels] == ["slow", "fast", "", ""]
    slow, _, large_slow, large_fast = map(lines_of, panels)
    assert slow["LRU"].get_xydata() == pytest.approx(np.array([[2.0, 80.0], [4.0, 40.0]]))
    assert slow["clairvoyant reference"].get_xydata() == pytest.approx(np.array([[2.0, 20.0], [4.0, 10.0]]))
    assert slow["physics bound"].get_ydata().tolist() == pytest.approx([2.0, 2.0])
    assert large_fast["fewer"].get_ydata().tolist() == pytest.approx([20.0, 10.0])
    assert set(slow) - set(large_slow) == {"ahead"}
    for axes in panels[:2]:
        assert axes.get_ylim() == pytest.approx((2.0 / 1.25, 80.0 * 1.25))
    assert panels[0].get_yscale() == "log"


def test_a_grids_legend_names_each_line_once_below_its_group_and_dashes_those_asked_for(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    draw("cache size grid", GRID, tmp_path / "x")
    legends = {
        axes.get_legend().get_title().get_text(): [
            (line.get_label(), line.get_linestyle()) for line in axes.get_legend().legend_handles
        ]
        for axes in drawn[0].axes
        if axes.get_legend()
    }
    limits = [("LRU", "-"), ("clairvoyant reference", "--"), ("physics bound", ":")]
    assert legends == {" ": limits, "fetched": [("ahead", "-")], "dropped": [("fewer", "--")]}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"baseline": "LFU"}, "no row has system LFU, the baseline; did you mean 'LRU'?"),
        ({"groups": {"all": ["ahead"]}}, "system fewer is in none of the groups; expected it in one."),
    ],
)
def test_a_grid_says_which_line_it_lacks_or_cannot_place(tmp_path: Path, options: dict, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        cache_size_grid(GRID, tmp_path / "x", **{**KINDS["cache size grid"][2], **options})
    assert str(refused.value) == f"figure x: {sentence}"


def test_the_latency_curve_goes_through_its_percentiles_and_leaves_warm_up_out(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    warm = STEPS.assign(warmup=True, latency_s=9.0)
    prefill = STEPS.assign(phase="prefill", latency_s=7.0)
    latency_cdf({"lru": pd.concat([warm, STEPS, prefill])}, tmp_path / "x")
    curve, marks, _ = drawn[0].axes[0].lines
    assert marks.get_xydata() == pytest.approx(np.array([[50.0, 50.0], [99.0, 99.0]]))  # of 0, 1 ... 100 ms
    assert curve.get_xdata()[-1] == pytest.approx(100.0)
    assert dict(zip(curve.get_xdata()[1:], curve.get_ydata()[1:], strict=True))[50.0] == pytest.approx(100 * 51 / 101)
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["lru: 50, 99"]


def test_latencies_of_requests_are_called_so(tmp_path: Path, drawn: list[Figure]) -> None:
    latency_cdf({"lru": pd.DataFrame({"request": [0, 1], "ttft_s": [None, 2.0]})}, tmp_path / "x", value="ttft_s")
    axes = drawn[0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time to first token (s)", "share of requests (%)")


def test_a_run_of_warm_up_alone_has_no_latencies(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run lru has no 'latency_s' in decode steps after warm-up"):
        latency_cdf({"lru": STEPS.assign(warmup=True)}, tmp_path / "x")


def test_stacks_end_at_the_time_or_at_all_of_it(tmp_path: Path, drawn: list[Figure]) -> None:
    whole = SHARES.assign(hbm_share=[0.4, 0.3, 0.9], pcie_share=[0.5, 0.6, 0.0])
    for share in (False, True):
        time_stacks(whole, tmp_path / "x", name="policy.cache", time="tpot_mean_s", share=share)
    times, shares = (figure.axes[0].containers for figure in drawn[::2])
    ends = [[bar.get_x() + bar.get_width() for bar in bars[-1]] for bars in (times, shares)]
    assert ends == [pytest.approx([12.5, 25.0, 50.0]), pytest.approx([100.0] * 3)]  # ms, fastest first
    pcie = next(part for part in times if part.get_label() == "PCIe")
    assert [bar.get_width() for bar in pcie] == pytest.approx([0.0, 0.5 * 25, 0.6 * 50])


def test_causes_are_stacked_in_one_order_and_totals_have_the_same_decimals(tmp_path: Path, drawn: list[Figure]) -> None:
    for pcie in (0.1, 0.8):  # the smallest and the largest part
        frame = FIRST.assign(tpot_mean_s=[0.0132, 0.014, 0.02], pcie_share=pcie, hbm_share=0.9 - pcie, cpu_share=0.1)
        time_stacks(frame, tmp_path / "x", name="policy.cache", time="tpot_mean_s")
    for figure in drawn[::2]:
        assert [part.get_label() for part in figure.axes[0].containers] == ["GPU memory (HBM)", "PCIe", "CPU experts"]
        assert [text.get_text() for text in figure.axes[0].texts] == ["13.2", "14.0", "20.0"]


def test_stacks_with_the_same_name_are_refused(tmp_path: Path) -> None:
    frame = SHARES.assign(**{"policy.cache": "lru", "cache_gib": [2, 4, 6]})
    with pytest.raises(ConfigError, match=r"3 rows have policy.cache lru; expected one \(they differ in 'cache_gib'"):
        time_stacks(frame, tmp_path / "x", name="policy.cache", time="tpot_mean_s")


def test_stacks_without_shares_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no column named '<cause>_share'"):
        time_stacks(FIRST, tmp_path / "x", name="policy.cache", time="tpot_mean_s")


def test_energy_is_stacked_by_part_up_to_the_total(tmp_path: Path, drawn: list[Figure]) -> None:
    for share in (False, True):
        energy_stacks(ENERGY, tmp_path / "x", name="policy.cache", share=share)
    joules, shares = (figure.axes[0] for figure in drawn[::2])
    assert [text.get_text() for text in joules.get_yticklabels()] == ["lfu", "lru"]  # the least first
    for axes, ends in ((joules, [1.6, 2.0]), (shares, [100.0, 100.0])):
        last = axes.containers[-1]
        assert [bar.get_x() + bar.get_width() for bar in last] == pytest.approx(ends)
        assert [part.get_label() for part in axes.containers] == [
            "other products",
            "experts",
            "transfers",
            "background",
        ]


def test_energy_that_is_known_by_power_alone_has_no_parts_to_draw(tmp_path: Path) -> None:
    frame = ENERGY.assign(energy_experts_per_token_j=[0.5, None])
    with pytest.raises(ConfigError, match="the energy of lfu is known by power alone"):
        energy_stacks(frame, tmp_path / "x", name="policy.cache")


def test_speeds_are_sorted_with_reference_and_bound_as_lines(tmp_path: Path, drawn: list[Figure]) -> None:
    speed_bars(FIRST.assign(name=FIRST["policy.cache"]), 90.0, None, tmp_path / "x")
    axes = drawn[0].axes[0]
    assert [bar.get_width() for bar in axes.patches] == [20.0, 40.0, 80.0]  # upwards
    assert [line.get_xdata()[0] for line in axes.lines] == [90.0]


def test_no_operator_lies_above_the_roof(tmp_path: Path) -> None:
    for platform, model, phase in (
        ("rtx_3060", "gpt_oss_20b", "decode"),
        ("a100_host", "deepseek_v3", "prefill"),
        ("oneplus_15r", "gemma_4_26b_a4b", "decode"),
        ("t4_host", "switch_base_8", "decode"),
    ):
        spec, device = machine(platform, model)
        points = roofline_points(spec, device, (1, 64, 4096), phase=phase)
        assert {"router", "routed experts", "output projection", "LM head"} <= set(points["operator"])
        roof = np.minimum(
            points["intensity_flop_per_byte"] * device.memory_read_bytes_per_s, max(device.peak_flop_per_s.values())
        )
        assert (points["flop_per_s"] <= roof).all()


def test_one_token_uses_its_top_k_experts_and_many_tokens_all_of_them() -> None:
    model, device = machine()
    points = roofline_points(model, device, (1, 4096)).set_index(["operator", "tokens"])
    one, many = (points.loc[("routed experts", tokens)] for tokens in (1, 4096))
    assert one["flops"] == pytest.approx(4 * float(model.expert_work(1).flops))
    assert many["flops"] == pytest.approx(32 * float(model.expert_work(4096 * 4 / 32).flops))
    assert many["size_bytes"] == pytest.approx(32 * float(model.expert_work(4096 * 4 / 32).size_bytes))


def test_the_ridge_is_where_the_two_peaks_meet(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_roofline(table_of("roofline"), tmp_path / "x")
    axes = drawn[0].axes[0]
    assert axes.lines[0].get_xydata()[1] == pytest.approx([25.5e12 / 360e9, 25.5e3])  # FLOP/byte, GFLOP/s
    notes = [text.get_text() for text in axes.texts]
    assert notes == ["bf16: 25.5 TFLOP/s, ridge at 70.8 FLOP/byte", "360 GB/s"]


def test_the_load_map_shows_loads_and_the_imbalance_of_layers(tmp_path: Path, drawn: list[Figure]) -> None:
    for by_load in (False, True):
        expert_load_map(LOADS, tmp_path / "x", by_load=by_load)
    cells, strip, _ = drawn[0].axes
    assert cells.collections[0].get_array().tolist() == [[1.0, 3.0], [0.0, 0.0]]
    assert [bar.get_width() for bar in strip.patches] == pytest.approx([3 / 2, NAN], nan_ok=True)  # max 3, mean 2
    assert drawn[2].axes[0].collections[0].get_array().tolist() == [[3.0, 1.0], [0.0, 0.0]]


def test_the_front_has_the_points_that_no_other_beats_in_steps(tmp_path: Path, drawn: list[Figure]) -> None:
    frame = pd.DataFrame({"cache_gib": [8.0, 2.0, 4.0, 4.0], "tokens_per_s": [50.0, 20.0, 30.0, 25.0]})
    goals: dict[str, Any] = {"x": "cache_gib", "y": "tokens_per_s", "minimise": ["cache_gib"]}
    pareto_front(frame, tmp_path / "x", **goals, maximise=["tokens_per_s"])
    others, best, *_, front = drawn[0].axes[0].lines
    assert others.get_xydata().tolist() == [[4.0, 25.0]]
    assert best.get_xydata().tolist() == front.get_xydata().tolist() == [[2.0, 20.0], [4.0, 30.0], [8.0, 50.0]]
    assert front.get_drawstyle() == "steps-post"  # with 6 GiB one has what 4 GiB give
    with pytest.raises(ConfigError, match="'tokens_per_s' must be in one of minimise and maximise"):
        pareto_front(frame, tmp_path / "x", **goals)


def test_dominated_points_have_the_colour_of_their_series_but_pale(tmp_path: Path, drawn: list[Figure]) -> None:
    frame = pd.DataFrame(
        {"cache_gib": [2.0, 4.0, 2.0, 4.0], "tokens_per_s": [20.0, 30.0, 10.0, 15.0], "system": ["a", "a", "b", "b"]}
    )
    goals: dict[str, Any] = {"minimise": ["cache_gib"], "maximise": ["tokens_per_s"], "series": "system"}
    pareto_front(frame, tmp_path / "x", x="cache_gib", y="tokens_per_s", **goals)
    lines = [line for line in drawn[0].axes[0].lines if len(line.get_xdata()) and line.get_linestyle() == "None"]
    (best, others) = lines
    assert best.get_xydata().tolist() == [[2.0, 20.0], [4.0, 30.0]]  # all of a, none of b
    assert others.get_xydata().tolist() == [[2.0, 10.0], [4.0, 15.0]]
    full, pale = np.array(to_rgb(COLOURS[1])), np.array(to_rgb(others.get_color()))
    assert pale == pytest.approx(full + 0.65 * (1 - full))
    assert others.get_marker() == MARKERS[1]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["a", "b", "pale: dominated"]


def test_a_front_that_is_known_is_taken_and_its_points_are_numbered(tmp_path: Path, drawn: list[Figure]) -> None:
    options = {**KINDS["pareto"][2], "front": "best", "name": "policy.cache"}
    pareto_front(FIRST.assign(best=[True, False, True]), tmp_path / "x", **options)
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["1", "2"]
    key = [text.get_text() for text in drawn[0].legends[1].get_texts()]
    assert key[0].startswith("1  on_demand_lru")  # 12.5 ms, left of 25 ms
    assert key[1] == "2  lru"


def test_the_tornado_takes_each_factor_alone_and_puts_the_largest_swing_first(tmp_path: Path) -> None:
    base_s, ends = effects(TRIED, tmp_path / "x", "tpot_mean_s", ["policy.cache", "cache_gib", "seed"], None)
    assert base_s == 0.020  # 4 GiB and lru are the most frequent; the last row changes both and does not count
    assert [(end.factor, end.kind, end.setting) for end in ends] == [
        ("cache_gib", "lowest value", "2"),
        ("cache_gib", "highest value", "8"),
        ("policy.cache", "other choice", "belady"),
        ("policy.cache", "other choice", "lfu"),
    ]
    assert [end.change for end in ends] == pytest.approx([0.5, -0.2, -0.4, 0.05])  # swings 0.7 and 0.45


def test_a_setting_in_bytes_is_written_in_the_unit_it_was_chosen_in(tmp_path: Path) -> None:
    frame = TRIED.head(3).assign(**{"cache_gib": 4.0, "settings.chunk_bytes": [2**20, 2**16, 2**24]})
    _, ends = effects(frame, tmp_path / "x", "tpot_mean_s", ["settings.chunk_bytes"], base=0)
    assert [end.setting for end in ends] == ["64 KiB", "16 MiB"]


def test_the_tornados_bars_are_the_changes_in_per_cent(tmp_path: Path, drawn: list[Figure]) -> None:
    draw("tornado", TRIED, tmp_path / "x")
    assert [bar.get_width() for bar in drawn[0].axes[0].patches] == pytest.approx([50.0, -20.0, -40.0, 5.0])
    assert [text.get_text() for text in drawn[0].axes[0].get_yticklabels()] == ["expert cache (GiB)", "cache policy"]


def test_a_base_that_is_not_there_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"metric": "tpot_mean_s", "factors": ["cache_gib"]}
    with pytest.raises(ConfigError, match="no row is point 9"):
        tornado(TRIED, tmp_path / "x", base=9, **options)
    with pytest.raises(ConfigError, match="no row differs from the base in one factor only"):
        tornado(TRIED.head(1), tmp_path / "x", **options)


@pytest.mark.parametrize(
    ("column", "value", "label", "drawn_as"),
    [
        ("tpot_p99_s", 0.0123, "p99 time per token (ms)", 12.3),
        ("duration_s", 5000.0, "duration (s)", 5000.0),
        ("load_bytes", 3.2e9, "loaded on demand (GB)", 3.2),
        ("late_rate", 0.25, "late rate (%)", 25.0),
        ("energy_per_token_j", 0.5, "energy per token (mJ)", 500.0),
        ("workload.max_decode_tokens", 64, "max decode tokens", 64),
    ],
)
def test_a_columns_name_gives_its_unit_and_its_size_the_prefix(
    column: str, value: float, label: str, drawn_as: float
) -> None:
    found = quantity(column, [value])
    assert found.label == label
    assert value * found.factor == pytest.approx(drawn_as)


def test_long_names_break_where_words_end_and_a_dollar_is_no_formula() -> None:
    assert shown("on_demand_lru with policy/cache=lfu") == "on_demand_lru with\npolicy/cache=lfu"
    assert shown("a $x$") == r"a \$x\$"
    assert shown(None) == "none"
    assert shown("x" * 30, 10) == "\n".join(["x" * 10] * 3)
