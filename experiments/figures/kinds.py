"""The kinds of figures that a definition can name: from what the runs left to a table and its drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.explain import ConfigError
from experiments.figures.style import shown
from experiments.figures.table import quantity

if TYPE_CHECKING:
    import pandas as pd

    from simulator.result import Result

Draw = Callable[..., list[Path]]  # (stem, *, width_in)


@dataclass
class Data:
    """What a kind has to draw from; which fields are filled depends on what it needs.

    points, requests  as from `experiments.results.load` and `requests`
    configs           plain configurations
    results           of runs that were recorded, in memory
    """

    name: str
    names: dict[str, str] = field(default_factory=dict)
    points: pd.DataFrame | None = None
    requests: pd.DataFrame | None = None
    configs: list[dict[str, Any]] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    def called(self, value: Any) -> Any:
        """What the figure calls a value or column."""
        return self.names.get(shown(value, 1000), value)

    def renamed(self, table: pd.DataFrame, *columns: str | None) -> pd.DataFrame:
        """The table with the values of `columns` as the figure calls them."""
        kept = [column for column in columns if column is not None and column in table]
        return table.assign(**{column: [self.called(value) for value in table[column]] for column in kept})

    def only(self, what: list[Any]) -> Any:
        """The one of a list. Raises ConfigError if there are more."""
        if len(what) != 1:
            raise ConfigError(f"figure {self.name}: it shows one run, and {len(what)} are given; choose one of them.")
        return what[0]


class Drawing(NamedTuple):
    """The rows that are drawn, and how."""

    table: pd.DataFrame
    draw: Draw


class Kind(NamedTuple):
    """needs: "sweep" (points and requests), "runs" (run folders), "recording" (a Result), "configuration"."""

    prepare: Callable[..., Drawing]
    needs: str


def bars(
    data: Data,
    *,
    factor: str,
    baseline: Any,
    metric: str = "tpot_s",
    category: str | None = None,
    group: str | None = None,
    show: str = "value",
) -> Drawing:
    """Bars with 95 % intervals from resampled requests: the metric's value, or its ratio to the baseline's."""
    from experiments.figures.bars import bars as draw_bars
    from experiments.results import compare

    if show not in ("value", "ratio"):
        raise ConfigError(f"figure {data.name}: show is {show}; expected value or ratio.")
    assert data.points is not None
    assert data.requests is not None
    category = category or factor
    table = compare((data.points, data.requests), factor, baseline, metric)
    for column in (category, group):
        if column in data.points and column not in table:  # it is the same everywhere
            table[column] = table["point"].map(data.points.set_index("point")[column])
    prefix = "" if show == "value" else "ratio_"
    low, high = f"{prefix}low", f"{prefix}high"
    if show == "ratio":
        table = table[table["point"] != table["baseline_point"]].reset_index(drop=True)
    value = metric if show == "value" else f"{quantity(metric).words}, relative to {shown(data.called(baseline))}"
    table = data.renamed(table.rename(columns={show: value}), category, group)
    ends = {"low": low, "high": high} if table[low].notna().any() else {}
    return Drawing(table, _with(draw_bars, table, value=value, category=category, group=group, **ends))


def speedup(
    data: Data, *, group: str, baseline: Any, category: str | None = None, value: str = "tokens_per_s"
) -> Drawing:
    """Speed-up of each group over the baseline group, by category."""
    from experiments.figures.bars import speedup_bars

    table = data.renamed(_columns(data, [category, group], [value]), category, group)
    options = {"value": value, "category": category, "group": group, "baseline": data.called(baseline)}
    return Drawing(table, _with(speedup_bars, table, **options))


def cache_size(data: Data, *, series: str = "policy.cache", time: str = "tpot_mean_s") -> Drawing:
    """Hit rate and time per token against the budget, with clairvoyant reference and physics bound."""
    from experiments.figures.cache_size import cache_size_curves

    bounds = ["cache_bytes", "reference_hit_rate", "reference_tpot_s", "physics_tpot_s"]
    table = data.renamed(_columns(data, [series], ["cache_gib", "hit_rate", time], bounds), series)
    return Drawing(table, _with(cache_size_curves, table, series=series, time=time))


def time_breakdown(data: Data, *, name: str, time: str = "tpot_mean_s", share: bool = False) -> Drawing:
    """Stacked bars of where the time of a token goes."""
    from experiments.figures.policies import time_stacks

    assert data.points is not None
    shares = [str(column) for column in data.points if str(column).endswith("_share")]
    table = data.renamed(_columns(data, [name], [time], shares), name)
    return Drawing(table, _with(time_stacks, table, name=name, time=time, share=share))


def pareto(
    data: Data,
    *,
    x: str,
    y: str,
    minimise: list[str] | None = None,
    maximise: list[str] | None = None,
    series: str | None = None,
) -> Drawing:
    """Two goals against each other, with the front of what is not dominated."""
    from experiments.figures.pareto import pareto_front
    from experiments.results import pareto as undominated

    minimise, maximise = minimise or [], maximise or []
    for column in (*minimise, *maximise):
        if column not in (x, y):
            raise ConfigError(f"figure {data.name}: '{column}' is to be best, but it is neither x nor y.")
    table = data.renamed(_columns(data, [series], [x, y]), series).dropna(subset=[x, y]).reset_index(drop=True)
    table["front"] = table.index.isin(undominated(table, minimise, maximise).index)
    options = {"x": x, "y": y, "minimise": minimise, "maximise": maximise, "series": series, "front": "front"}
    return Drawing(table, _with(pareto_front, table, **options))


def tornado(data: Data, *, metric: str, factors: list[str], base: int | None = None) -> Drawing:
    """The effect of each factor alone. Text such as "31.5 GB/s" is drawn as a number with its unit."""
    from experiments.figures.sensitivity import tornado as draw_tornado

    table = _columns(data, factors, [metric])
    drawn, labels = table.copy(), []
    for factor in factors:
        values = [_number(factor, value) for value in table[factor]]
        numbers = values if all(isinstance(value, float) for value in values) else ()
        unit = quantity(_measured(factor), numbers)
        factored = [value * unit.factor if isinstance(value, float) else value for value in values]
        labels.append(unit._replace(words=data.called(factor) if factor in data.names else unit.words).label)
        drawn = drawn.rename(columns={factor: labels[-1]}).assign(**{labels[-1]: factored})
    drawn = data.renamed(drawn, *labels)
    return Drawing(table, _with(draw_tornado, drawn, metric=metric, factors=labels, base=base))


def latency(
    data: Data,
    *,
    name: str,
    value: str = "latency_s",
    table: str = "steps",
    phase: str = "decode",
    log: bool | None = None,
) -> Drawing:
    """How latencies of steps or requests are distributed, a curve for each run."""
    import pandas as pd

    from experiments.figures.latency import latency_cdf
    from experiments.results.frames import read_table

    if table not in ("steps", "requests"):
        raise ConfigError(f"figure {data.name}: table is {table}; expected steps or requests.")
    points = data.renamed(_columns(data, [name], [], ["folder"]), name)
    frames: dict[str, pd.DataFrame] = {}
    for point, label, folder in zip(points["point"], points[name], points["folder"], strict=True):
        if str(label) in frames:
            raise ConfigError(f"figure {data.name}: two runs have {name} {label}; expected each to differ in it.")
        if table == "requests":
            assert data.requests is not None
            rows = data.requests[data.requests["point"] == point]
        elif (Path(folder) / "steps.parquet").is_file():
            rows = read_table(Path(folder) / "steps.parquet")
        else:
            raise ConfigError(f"{folder}: a sweep keeps no steps; expected folders of runs, or 'table: requests'.")
        frames[str(label)] = rows
    kept = ["phase", "step", "request", "warmup", value]
    together = pd.concat(
        [rows.filter(kept).assign(**{name: label}) for label, rows in frames.items()], ignore_index=True
    )
    draw = _with(latency_cdf, frames, value=value, phase=phase, log=log)
    return Drawing(together[[name, *(column for column in together if column != name)]], draw)


def expert_load(data: Data, *, value: str = "selections", by_load: bool = False) -> Drawing:
    """Heat map of layers and experts of one run."""
    from experiments.figures.expert_load import expert_load_map
    from experiments.results.frames import read_table

    assert data.points is not None
    folder = Path(data.only(list(data.points["folder"])))
    if not (folder / "experts.parquet").is_file():
        raise ConfigError(f"{folder}: a sweep keeps no load of experts; expected the folder of a run.")
    table = read_table(folder / "experts.parquet")
    return Drawing(table, _with(expert_load_map, table, value=value, by_load=by_load))


def timeline(data: Data, *, start_s: float | None = None, stop_s: float | None = None) -> Drawing:
    """What computes and what is copied during a decode step, or another stretch of a run. The table has all slices."""
    import pandas as pd

    from experiments.figures.timeline_strip import timeline_strip
    from simulator.timeline import timeline_of

    result = data.only(data.results)
    rows = [
        (s.track.device, s.track.name, s.kind, s.name, s.layer, s.begin_ps * 1e-12, s.end_ps * 1e-12)
        for s in timeline_of(result.run).slices
    ]
    table = pd.DataFrame(rows, columns=["device", "track", "kind", "name", "layer", "begin_s", "end_s"])
    return Drawing(table, _with(timeline_strip, result, start_s=start_s, stop_s=stop_s))


def roofline(
    data: Data,
    *,
    tokens: list[int] | None = None,
    kv_tokens: int = 1024,
    phase: str = "decode",
) -> Drawing:
    """A model's operators under the roofline of the platform's first worker; nothing is run."""
    from experiments.figures.roofline import roofline as draw_roofline
    from experiments.figures.roofline import roofline_points
    from hwmodels import Platform
    from simulator.model import ModelSpec

    config = data.only(data.configs)
    platform = Platform.from_mapping(config["platform"])
    device = platform.device(platform.workers[0])
    table = roofline_points(ModelSpec.from_mapping(config["model"]), device, tokens or (1, 16, 256), kv_tokens, phase)
    return Drawing(table, lambda stem, *, width_in: draw_roofline(table, device, stem, width_in=width_in))


KINDS: dict[str, Kind] = {
    "bars": Kind(bars, "sweep"),
    "speedup": Kind(speedup, "sweep"),
    "cache_size": Kind(cache_size, "sweep"),
    "time_breakdown": Kind(time_breakdown, "sweep"),
    "pareto": Kind(pareto, "sweep"),
    "tornado": Kind(tornado, "sweep"),
    "latency": Kind(latency, "runs"),
    "expert_load": Kind(expert_load, "runs"),
    "timeline": Kind(timeline, "recording"),
    "roofline": Kind(roofline, "configuration"),
}


def _with(draw: Callable[..., list[Path]], *given: Any, **options: Any) -> Draw:
    return lambda stem, *, width_in: draw(*given, stem, width_in=width_in, **options)


def _columns(
    data: Data, names: Iterable[str | None], numbers: Iterable[str], optional: Iterable[str] = ()
) -> pd.DataFrame:
    """The points' columns that a figure needs, checked, and those of the optional ones that there are."""
    from experiments.figures.table import checked

    assert data.points is not None
    wanted = list(dict.fromkeys(["point", *(name for name in names if name), *numbers]))
    checked(data.points, Path(data.name), wanted)
    return data.points[[*wanted, *(name for name in optional if name in data.points and name not in wanted)]]


def _measured(column: str) -> str:
    """The part of a dotted key that states its unit, as for `peak_flop_per_s.bf16`; else the key."""
    from hwmodels.units import unit_of_key

    return next((part for part in reversed(column.split(".")) if unit_of_key(part)), column)


def _number(column: str, value: Any) -> Any:
    """A quantity such as "31.5 GB/s" as an SI number, numbers as float64, anything else as it is."""
    from hwmodels.errors import PlatformError
    from hwmodels.units import parse_quantity, unit_of_key

    unit = unit_of_key(_measured(column))
    if isinstance(value, str) and unit is not None:
        try:
            return parse_quantity(value, unit)
        except PlatformError:
            return value
    return value if isinstance(value, str | bool) or value is None else float(value)
