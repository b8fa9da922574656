"""Kinds of figures on proposed hardware; text and keywords as in `experiments.figures.kinds`."""

from __future__ import annotations

from typing import Any

from experiments.explain import ConfigError
from experiments.figures.data import Data
from experiments.figures.drawing import Drawing, drawn_by

_ROLE = "figure.role"  # the column in which a rival differs from what is compared with it


def machines(
    data: Data,
    *,
    groups: dict[str, list[str]],
    baseline: dict[str, Any],
    mark: dict[str, Any] | None = None,
    same: str = "platform",
    panels: str = "workload.batch_size",
) -> Drawing:
    """Machines below each other: speed-up over a rival on the same one, with intervals, and energy per token by part.

    Intervals are of 95 %, from resampled requests, where there are enough; energy is without the background.

    groups    title -> names of sweeps below it, a row each; other sweeps are of rivals
    baseline  column -> value: the rivals with which each is compared
    mark      column -> value: rivals that are drawn as a second mark (null: none)
    same      column whose value a row shares with its rivals
    panels    column of numbers with a panel of speed-ups for each; energy is that of the largest
    """
    from experiments.figures.machines import PARTS, machine_rows
    from experiments.results import compare

    assert data.points is not None
    assert data.requests is not None
    energy = [f"energy_{part}_per_token_j" for part in PARTS]
    chosen = {"baseline": baseline, "mark": mark or {}}
    columns = ["name", same, panels, *baseline, *chosen["mark"]]
    points = data.columns(columns, ["tpot_mean_s"], energy)
    names = [name for members in groups.values() for name in members]
    missing = [name for name in names if name not in set(points["name"])]
    if missing:
        raise ConfigError(f"figure {data.name}: no run has the name '{missing[0]}'; expected that of a sweep.")
    points = points.assign(role=points["name"].where(points["name"].isin(names)))
    for role, wanted in chosen.items():
        is_it = points["role"].isna() & bool(wanted)
        for column, value in wanted.items():
            is_it &= points[column].isna() if value is None else points[column] == value
        points.loc[is_it, "role"] = role
    table = points.dropna(subset=["role"]).reset_index(drop=True)
    roles = table.rename(columns={"role": _ROLE})[["point", _ROLE, same, panels]]
    found = compare((roles, data.requests), _ROLE, "baseline").set_index("point")
    for end, ratio in (("", "ratio"), ("_low", "ratio_high"), ("_high", "ratio_low")):
        table[f"speed_up{end}"] = 1 / table["point"].map(found[ratio])
    options: dict[str, Any] = {"groups": groups, "same": same, "panels": panels, "called": data.names}
    options["rivals"] = {role: data.names.get(role, role) for role, wanted in chosen.items() if wanted}
    return Drawing(table, drawn_by(machine_rows, table, **options))


def expert_places(
    data: Data, *, resident: str, copied: str, batches: list[int] | None = None, most: int = 512
) -> Drawing:
    """Time of one expert by its tokens, wherever it can run, from cost models and runs; how many tokens experts get.

    resident  name of the sweep whose worker holds the expert
    copied    name of the sweep whose worker copies it first; other sweeps run it on all units of their platform
    batches   how many requests decode together, a line of loads for each (null: 1, 16 and 64)
    most      tokens up to which times are drawn
    """
    import numpy as np
    import pandas as pd

    from experiments.figures.places import COPIED, RESIDENT, expert_s, measured_s, tokens_per_expert
    from experiments.figures.places import expert_places as draw_places
    from experiments.run import trace_of
    from hwmodels import Platform
    from simulator.model import ModelSpec

    ways = {resident: RESIDENT, copied: COPIED}
    tokens = np.arange(1, most + 1)
    rows: list[tuple[str, Any, int, float]] = []
    for name, config in {config["name"]: config for config in data.configs}.items():
        platform, model = Platform.from_mapping(config["platform"]), ModelSpec.from_mapping(config["model"])
        times = expert_s(platform, model, ways.get(name, name), tokens)
        rows += [("model", name, int(n), float(value)) for n, value in zip(tokens, times, strict=True)]
    for config, result in zip(data.configs, data.results, strict=True):
        rows.append(("run", config["name"], int(config["workload"]["batch_size"]), measured_s(result)))
    whole = {**data.configs[0], "trace": {**data.configs[0]["trace"], "steps": None}}
    for batch in batches or (1, 16, 64):
        counts = tokens_per_expert(trace_of(whole), batch)
        rows += [("load", batch, n, float((counts >= n).mean())) for n in range(1, int(counts.max()) + 2)]
    table = pd.DataFrame(rows, columns=["what", "place", "tokens", "value"])
    return Drawing(table, drawn_by(draw_places, table, resident=resident, most=most))


def break_even_map(
    data: Data,
    *,
    x: str,
    y: str,
    factor: str,
    baseline: str,
    devices: dict[str, str],
    words: list[str],
    panels: str = "workload.batch_size",
) -> Drawing:
    """Speed-up over a rival as a map of link and internal bandwidth, with the line at 1 and published devices as dots.

    x         column with the bandwidth of the link between home and worker
    y         column with the bandwidth of the home of the experts
    factor    column that is compared, with two values
    baseline  value of `factor` of the rival, at the same x and y
    devices   name -> platform: dots at its internal and link bandwidth
    words     what the axes are called
    panels    column of numbers with a panel for each value
    """
    from experiments.compose import compose_config
    from experiments.figures.break_even import internal_and_link, speed_up_map
    from hwmodels import Platform, parse_quantity

    table = data.columns([x, y, factor, panels], ["tpot_mean_s"])
    if len(words) != 2:
        raise ConfigError(f"figure {data.name}: words has {len(words)} entries; expected one for each axis.")
    for column in (x, y):
        rates = [parse_quantity(value, "bytes_per_s") for value in table[column]]
        table = table.assign(**{column: rates})
    is_rival = table[factor] == baseline
    rivals = table[is_rival].set_index([x, y, panels])["tpot_mean_s"]
    table = table[~is_rival].reset_index(drop=True)
    keys = table[[x, y, panels]].itertuples(index=False, name=None)
    table["speed_up"] = [rivals.get(key, float("nan")) for key in keys] / table["tpot_mean_s"]
    spots = {}
    for name, choice in devices.items():
        inside, link = internal_and_link(Platform.from_mapping(compose_config([f"platform={choice}"])["platform"]))
        spots[name] = (link, inside)
    options: dict[str, Any] = {"x": x, "y": y, "words": tuple(words), "panel": panels, "devices": spots}
    return Drawing(table, drawn_by(speed_up_map, table, **options))
