"""The kinds of figures that a definition can name: from what the runs left to a table and its drawing.

The table is written as CSV, with columns and values as the runs have them; what is drawn has the figure's names.
The text of a kind says what it draws, and a line for each keyword what it means; the gallery's page quotes both.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from experiments.explain import ConfigError
from experiments.figures.data import Data
from experiments.figures.drawing import Drawing, Kind, drawn_by
from experiments.figures.kinds_hardware import break_even_map, expert_places, machines
from experiments.figures.style import shown
from experiments.figures.table import quantity


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
    """Bars with 95 % intervals from resampled requests: the metric's value, or its ratio to the baseline's.

    factor    column that is compared; all else is the same within a pair
    baseline  value of `factor` that the others are compared with
    metric    metric of single requests: tpot_s, ttft_s, latency_s, tokens_per_s, hit_rate
    category  column with a place on the axis for each value (null: `factor`)
    group     column with bars side by side for each value
    show      value, or ratio: the metric over the baseline's, which is a line at 1
    """
    from experiments.figures.bars import bars as draw_bars
    from experiments.results import compare

    if show not in ("value", "ratio"):
        raise ConfigError(f"figure {data.name}: show is {show}; expected value or ratio.")
    assert data.points is not None
    assert data.requests is not None
    category = category or factor
    table = compare((data.points, data.requests), factor, baseline, metric)
    base = table.set_index("point")["value"]
    table.insert(table.columns.get_loc("value"), "metric", metric)
    table.insert(table.columns.get_loc("value") + 1, "baseline_value", table["baseline_point"].map(base))
    if show == "ratio":
        table = table[table["point"] != table["baseline_point"]].reset_index(drop=True)
    extra = data.apart(category, group, among=table["point"])
    for column in (category, group, *extra):
        if column in data.points and column not in table:  # it is the same everywhere
            table[column] = table["point"].map(data.points.set_index("point")[column])
    options: dict[str, Any] = {"category": category, "group": group}
    if show == "ratio":
        options["baseline"] = shown(data.called(baseline, factor))
    prefix = "" if show == "value" else "ratio_"
    if table[f"{prefix}low"].notna().any():
        options |= {"low": f"{prefix}low", "high": f"{prefix}high"}
    value = metric if show == "value" else f"{quantity(metric).words}, relative to {options['baseline']}"
    drawn = data.renamed(table.drop(columns=show).assign(**{value: table[show]}), category, group)
    if extra:
        drawn[category] = data.labels(table, [category, *extra])
    return Drawing(table, drawn_by(draw_bars, drawn, value=value, **options))


def speedup(
    data: Data, *, group: str, baseline: Any, category: str | None = None, value: str = "tokens_per_s"
) -> Drawing:
    """Speed-up of each group over the baseline group, by category.

    group     column that is compared, with a bar for each value
    baseline  value of `group` that the others are compared with
    category  column with a place on the axis for each value, and the geometric mean as last (null: no categories)
    value     metric: a rate, or what is better when low
    """
    from experiments.figures.bars import speedup_bars

    table = data.columns([category, group], [value], data.apart(category, group))
    options = {"value": value, "category": category, "group": group, "baseline": data.called(baseline, group)}
    return Drawing(table, drawn_by(speedup_bars, data.renamed(table, category, group), **options))


def cache_size(data: Data, *, series: str = "policy.cache", time: str = "tpot_mean_s") -> Drawing:
    """Hit rate and time per token against the budget, with clairvoyant reference and physics bound.

    series  column with a line for each value
    time    metric of the second panel, in seconds
    """
    from experiments.figures.cache_size import cache_size_curves

    bounds = ["cache_bytes", "reference_hit_rate", "reference_tpot_s", "physics_tpot_s"]
    optional = [*data.apart(series, "cache_gib"), *bounds]
    table = data.columns([series], ["cache_gib", "hit_rate", time], optional)
    return Drawing(table, drawn_by(cache_size_curves, data.renamed(table, series), series=series, time=time))


def curves(data: Data, *, x: str, panels: list[list[str]], series: str) -> Drawing:
    """Metrics against a number that was swept, such as the request rate: a panel for each, or for some together.

    x       column of numbers
    panels  the metrics of each panel, at most three of the same unit
    series  column with a colour for each value
    """
    from experiments.figures.curves import metric_curves

    metrics = [metric for names in panels for metric in names]
    table = data.columns([series], [x, *metrics], data.apart(series, x))
    options = {"x": x, "panels": panels, "series": series}
    return Drawing(table, drawn_by(metric_curves, data.renamed(table, series), **options))


def cache_size_grid(
    data: Data,
    *,
    groups: dict[str, list[str]],
    baseline: str,
    series: str = "system",
    rows: str = "model",
    columns: str = "platform",
    time: str = "tpot_mean_s",
    dashed: list[str] | None = None,
) -> Drawing:
    """Time per token of many systems against the budget: a panel for each model and machine, with both limits.

    groups    title in the legend -> values of `series` below it; their lines have shades of one colour
    baseline  value of `series` with the thick line, whose runs say clairvoyant reference and physics bound
    series    column with a line for each value; of a system with changes only its name counts
    rows      column with a row of panels for each value
    columns   column with a column of panels for each value
    time      metric that is drawn, in seconds
    dashed    values of `series` with dashed lines (null: none)
    """
    from experiments.figures.cache_size_grid import cache_size_grid as draw_grid

    assert data.points is not None
    keys = [series, rows, columns]
    if series == "system" and series in data.points:
        names = [str(system).partition(" with ")[0] for system in data.points[series]]
        data.points = data.points.assign(**{series: names})
    lost = ["dropped_weight_share", "substituted_weight_share", "low_precision_weight_share"]
    optional = [*data.apart(*keys, "cache_gib"), "hit_rate", *lost, "reference_tpot_s", "physics_tpot_s"]
    table = data.columns(keys, ["cache_gib", time], optional)
    called = {title: [data.called(name, series) for name in names] for title, names in groups.items()}
    options: dict[str, Any] = {"series": series, "rows": rows, "columns": columns, "time": time, "groups": called}
    options |= {"baseline": data.called(baseline, series), "dashed": [data.called(n, series) for n in dashed or []]}
    return Drawing(table, drawn_by(draw_grid, data.renamed(table, *keys), **options))


def time_breakdown(data: Data, *, name: str, time: str = "tpot_mean_s", share: bool = False) -> Drawing:
    """Stacked bars of where the time of a token goes.

    name   column with a bar for each value; whatever else tells the runs apart is added to it
    time   metric that is broken down, in seconds
    share  per cent of each run's time instead of seconds
    """
    from experiments.figures.policies import time_stacks

    assert data.points is not None
    extra = data.apart(name)
    shares = [str(column) for column in data.points if str(column).endswith("_share")]
    table = data.columns([name, *extra], [time], shares)
    drawn = table.assign(**{name: data.labels(table, [name, *extra])})
    return Drawing(table, drawn_by(time_stacks, drawn, name=name, time=time, share=share))


def energy_breakdown(data: Data, *, name: str, share: bool = False) -> Drawing:
    """Stacked bars of where the energy of a token goes, bottom up.

    name   column with a bar for each value; whatever else tells the runs apart is added to it
    share  per cent of each run's energy instead of joules
    """
    from experiments.figures.policies import energy_stacks
    from simulator.energy import PARTS

    extra = data.apart(name)
    parts = [f"energy_{part}_per_token_j" for part in PARTS]
    table = data.columns([name, *extra], ["energy_per_token_j", *parts])
    drawn = table.assign(**{name: data.labels(table, [name, *extra])})
    return Drawing(table, drawn_by(energy_stacks, drawn, name=name, share=share))


def pareto(
    data: Data,
    *,
    x: str,
    y: str,
    minimise: list[str] | None = None,
    maximise: list[str] | None = None,
    series: str | None = None,
) -> Drawing:
    """Two goals against each other, with the front of what is not dominated.

    x         metric or column of numbers
    y         metric or column of numbers
    minimise  which of x and y are better when low; each must be in this list or in maximise
    maximise  which of them are better when high
    series    column with a colour and marker for each value; what else tells points apart is listed for the front
    """
    from experiments.figures.pareto import MOST_NAMES, pareto_front
    from experiments.results import pareto as undominated
    from experiments.results.frames import configuration

    minimise, maximise = minimise or [], maximise or []
    for column in (*minimise, *maximise):
        if column not in (x, y):
            raise ConfigError(f"figure {data.name}: '{column}' is to be best, but it is neither x nor y.")
    assert data.points is not None
    extra = data.apart(series, *(column for column in (x, y) if column in configuration(data.points)))
    table = data.columns([series, *extra], [x, y]).dropna(subset=[x, y]).reset_index(drop=True)
    table["front"] = table.index.isin(undominated(table, minimise, maximise).index)
    options = {"x": x, "y": y, "minimise": minimise, "maximise": maximise, "series": series, "front": "front"}
    drawn = data.renamed(table, series)
    if extra:
        drawn[", ".join(extra)] = data.labels(table, extra)
        options["name"] = ", ".join(extra)
        if table["front"].sum() > MOST_NAMES:
            text = f"points differ in {', '.join(extra)} as well, and the front has more than {MOST_NAMES} to name"
            warnings.warn(f"figure {data.name}: {text}; the CSV tells them apart.", UserWarning, stacklevel=2)
    return Drawing(table, drawn_by(pareto_front, drawn, **options))


def tornado(data: Data, *, metric: str, factors: list[str], base: int | None = None) -> Drawing:
    """The effect of each factor alone. Text such as "31.5 GB/s" is drawn as a number with its unit.

    metric   metric of the runs whose change is drawn
    factors  columns with a bar each
    base     number of the point from which changes count (null: the one with the most frequent settings)
    """
    from experiments.figures.sensitivity import tornado as draw_tornado

    table = data.columns(factors, [metric], data.apart(*factors))
    drawn, labels = table.copy(), []
    for factor in factors:
        values = [_number(factor, value) for value in table[factor]]
        numbers = values if all(isinstance(value, float) for value in values) else ()
        unit = quantity(_measured(factor), numbers)
        called = [data.names.get(shown(v), v) if isinstance(v, float) else data.called(v, factor) for v in values]
        factored = [value * unit.factor if isinstance(value, float) else value for value in called]
        labels.append(unit._replace(words=data.names.get(factor, unit.words)).label)
        drawn = drawn.rename(columns={factor: labels[-1]}).assign(**{labels[-1]: factored})
    return Drawing(table, drawn_by(draw_tornado, drawn, metric=metric, factors=labels, base=base))


def latency(
    data: Data,
    *,
    name: str,
    value: str = "latency_s",
    table: str = "steps",
    phase: str = "decode",
    log: bool | None = None,
) -> Drawing:
    """How latencies of steps or requests are distributed, a curve for each run.

    name   column with a curve for each value; whatever else tells the runs apart is added to it
    value  column of the table, in seconds: latency_s, or ttft_s and tpot_s of requests
    table  steps (from folders of runs) or requests
    phase  decode or prefill: the steps that count
    log    logarithmic axis (null: where latencies differ more than thirtyfold)
    """
    import pandas as pd

    from experiments.figures.latency import latency_cdf
    from experiments.results.frames import read_table

    if table not in ("steps", "requests"):
        raise ConfigError(f"figure {data.name}: table is {table}; expected steps or requests.")
    keys = [name, *data.apart(name)]
    points = data.columns(keys, [], ["folder"])
    frames: dict[str, pd.DataFrame] = {}
    for point, label, folder in zip(points["point"], data.labels(points, keys), points["folder"], strict=True):
        if label in frames:
            raise ConfigError(f"figure {data.name}: two runs have {', '.join(keys)} {label}; expected each to differ.")
        if table == "requests":
            assert data.requests is not None
            rows = data.requests[data.requests["point"] == point]
        elif (Path(folder) / "steps.parquet").is_file():
            rows = read_table(Path(folder) / "steps.parquet")
        else:
            raise ConfigError(f"{folder}: a sweep keeps no steps; expected folders of runs, or 'table: requests'.")
        frames[label] = rows
    kept = ["phase", "step", "request", "warmup", value]
    settings = [dict(zip(keys, row, strict=True)) for row in points[keys].itertuples(index=False, name=None)]
    parts = [rows.filter(kept).assign(**row) for rows, row in zip(frames.values(), settings, strict=True)]
    together = pd.concat(parts, ignore_index=True)
    draw = drawn_by(latency_cdf, frames, value=value, phase=phase, log=log)
    return Drawing(together[[*keys, *(column for column in together if column not in keys)]], draw)


def expert_load(data: Data, *, value: str = "selections", by_load: bool = False) -> Drawing:
    """Heat map of layers and experts of one run.

    value    column of the table `experts`: selections (tokens) or loads (times)
    by_load  each layer's experts in order of load, the busiest first
    """
    from experiments.figures.expert_load import expert_load_map
    from experiments.results.frames import read_table

    assert data.points is not None
    folder = Path(data.only(list(data.points["folder"])))
    if not (folder / "experts.parquet").is_file():
        raise ConfigError(f"{folder}: a sweep keeps no load of experts; expected the folder of a run.")
    table = read_table(folder / "experts.parquet")
    return Drawing(table, drawn_by(expert_load_map, table, value=value, by_load=by_load))


def timeline(data: Data, *, start_s: float | None = None, stop_s: float | None = None) -> Drawing:
    """What computes and what is copied during a decode step, or another stretch of a run. The table has all slices.

    start_s  where the stretch begins (null: at the decode step in the middle)
    stop_s   where it ends (null: with the step that runs at its beginning)
    """
    import pandas as pd

    from experiments.figures.timeline_strip import timeline_strip
    from simulator.timeline import timeline_of

    result = data.only(data.results)
    rows = [
        (s.track.device, s.track.name, s.kind, s.name, s.layer, s.begin_ps * 1e-12, s.end_ps * 1e-12)
        for s in timeline_of(result.run).slices
    ]
    table = pd.DataFrame(rows, columns=["device", "track", "kind", "name", "layer", "begin_s", "end_s"])
    return Drawing(table, drawn_by(timeline_strip, result, start_s=start_s, stop_s=stop_s))


def roofline(
    data: Data,
    *,
    tokens: list[int] | None = None,
    kv_tokens: int = 1024,
    phase: str = "decode",
) -> Drawing:
    """A model's operators under the roofline of the platform's first worker; nothing is run.

    tokens     how many sequences are decoded together, a point for each (null: 1, 16 and 256)
    kv_tokens  context of each sequence, in tokens
    phase      decode, or prefill: `tokens` are then the lengths of prompts
    """
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
    "curves": Kind(curves, "sweep"),
    "cache_size_grid": Kind(cache_size_grid, "sweep"),
    "time_breakdown": Kind(time_breakdown, "sweep"),
    "energy_breakdown": Kind(energy_breakdown, "sweep"),
    "pareto": Kind(pareto, "sweep"),
    "tornado": Kind(tornado, "sweep"),
    "latency": Kind(latency, "runs"),
    "expert_load": Kind(expert_load, "runs"),
    "timeline": Kind(timeline, "recording"),
    "roofline": Kind(roofline, "configuration"),
    "machines": Kind(machines, "sweep"),
    "break_even_map": Kind(break_even_map, "sweep"),
    "expert_places": Kind(expert_places, "recordings"),
}


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
