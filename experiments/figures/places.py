"""One expert in each place where it can run: time against its tokens, and how many tokens experts get."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.explain import ConfigError
from experiments.figures.style import COLUMN_IN, figure, legend_shape, logarithmic, save, stroke
from hwmodels import Platform, split_s
from hwmodels.operators import ACTIVATION_BYTES
from simulator.engine import PS_PER_S
from simulator.model import ModelSpec
from simulator.timeline import timeline_of
from traces import Trace

if TYPE_CHECKING:
    import pandas as pd

    from simulator.result import Result

COPIED, RESIDENT = "copied", "resident"  # other places are the units of their platform


def expert_s(platform: Platform, model: ModelSpec, place: str, tokens: np.ndarray) -> np.ndarray:
    """Seconds of one expert that serves so many tokens, [n], if nobody else is on its way.

    resident: the kernel on the first worker. copied: the weights over the links from the home, then the kernel. Any
    other place: the activations to the home, the expert in equal parts on all units of the platform, launches whole,
    and each unit's results back.
    """
    worker, work = platform.workers[0], model.expert_work(tokens)
    if place in (COPIED, RESIDENT):
        moved_s = platform.copy_s(platform.home, worker, model.expert_bytes) if place == COPIED else 0.0
        launch_s, busy_s = split_s(work, platform.device(worker))
        return np.asarray(moved_s + launch_s + busy_s)
    units = [platform.device(name) for name in platform.units]
    parts_s = [launch + busy / len(units) for launch, busy in (split_s(work, unit) for unit in units)]
    sizes = tokens * model.hidden * ACTIVATION_BYTES
    there = np.array([platform.copy_s(worker, platform.home, int(size)) for size in sizes])
    back = np.array([platform.copy_s(platform.home, worker, int(size)) for size in sizes])
    return there + np.max(parts_s, axis=0) + len(units) * back


def measured_s(result: Result) -> float:
    """Seconds of a layer's experts in a run: from the end of its dense part to the next one's beginning, the median."""
    dense = sorted(
        (piece.begin_ps, piece.end_ps)
        for piece in timeline_of(result.run).slices
        if piece.track.name == "compute" and piece.kind in ("dense", "tail")
    )
    gaps = [begin - end for (_, end), (begin, _) in itertools.pairwise(dense)]
    return float(np.median(gaps)) / PS_PER_S


def tokens_per_expert(trace: Trace, batch: int, steps: int = 64) -> np.ndarray:
    """How many of a batch's tokens the experts get that get any, over all layers of decode steps: int64 [experts].

    The batch decodes the trace's requests, each from its first token; of one that is asked for again, from another
    token on.
    """
    found = []
    every = (trace.request(place) for place in range(len(trace)))
    requests = [request.experts[request.phases != 0] for request in every]
    for step in range(steps):
        rows = []
        for slot in range(batch):
            experts = requests[slot % len(requests)]
            rows.append(experts[(step + slot // len(requests) * steps) % len(experts)])
        chosen = np.array(rows)  # [batch, layers, slots]
        for layer in range(chosen.shape[1]):
            counts = np.bincount(chosen[:, layer][chosen[:, layer] >= 0])
            found.append(counts[counts > 0])
    return np.concatenate(found)


def crossings(times_s: Mapping[str, np.ndarray], tokens: np.ndarray) -> list[tuple[int, str]]:
    """The tokens from which on another place is the quickest, ascending, and that place."""
    best = np.argmin(np.array(list(times_s.values())), axis=0)
    return [(int(tokens[at]), list(times_s)[best[at]]) for at in np.flatnonzero(best[1:] != best[:-1]) + 1]


def expert_places(
    table: pd.DataFrame, stem: Path, *, resident: str, most: int, width_in: float = COLUMN_IN
) -> list[Path]:
    """Above, seconds over tokens of each place, with lines where another one but `resident` becomes the quickest and
    runs as hollow marks; below, the share of experts that get at least so many tokens, by batch.

    table: `what` (model, run or load), `place` or batch, `tokens`, `value`. Returns the files written; raises
    ConfigError if no place is left to compare.
    """
    times = {
        str(place): rows["value"].to_numpy()
        for place, rows in table[table["what"] == "model"].groupby("place", sort=False)
    }
    tokens = np.arange(1, most + 1)
    away = {place: values for place, values in times.items() if place != resident}
    if not away:
        raise ConfigError(f"figure {stem.name}: expected a place other than '{resident}'.")
    runs, loads = (table[table["what"] == what] for what in ("run", "load"))
    batches = list(dict.fromkeys(loads["place"]))
    columns, legend_in = legend_shape([*times, "run of the simulator"], width_in)
    with figure(width_in, 3.4 + legend_in) as drawing:
        above, below = drawing.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1.5, 1]})
        for number, (place, values) in enumerate(times.items()):
            look = {**stroke(number), "marker": ""}
            above.plot(tokens, 1e6 * values, label=place, **look)
            mine = runs[runs["place"] == place]
            hollow: dict[str, Any] = {"linestyle": "none", "marker": "o", "markerfacecolor": "white", "markersize": 3.5}
            above.plot(mine["tokens"], 1e6 * mine["value"], markeredgecolor=look["color"], **hollow)
        above.plot([], [], markeredgecolor="black", label="run of the simulator", **hollow)
        every = 1e6 * np.concatenate(list(times.values()))
        logarithmic(above, "y", 0.6 * every.min(), 2.5 * every.max())
        above.set_ylabel("time of one expert (µs)")
        for at, place in crossings(away, tokens):
            for axes in (above, below):
                axes.axvline(at, color="#707070", linestyle=":", linewidth=1.0)
            left = at > np.sqrt(most) * 2  # no room at its right
            look = {"textcoords": "offset points", "fontsize": 6, "va": "top", "linespacing": 1.0}
            spot = (at, 2.4 * every.max())
            above.annotate(f"{place}\nfrom {at}", spot, (-2 if left else 2, 0), ha="right" if left else "left", **look)
        for number, batch in enumerate(batches):
            mine = loads[loads["place"] == batch]
            below.plot(mine["tokens"], 100 * mine["value"], drawstyle="steps-post", **_shade(number, len(batches)))
        _name_steps(below, loads, batches)
        below.set_ylim(0, 105)
        below.set_ylabel("experts with at\nleast as many (%)")
        below.set_xlabel("tokens of an expert")
        logarithmic(below, "x", 0.9, 1.1 * most)
        drawing.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=columns, handlelength=2.2)
        return save(drawing, stem)


def _shade(number: int, of: int) -> dict[str, Any]:
    """A grey, the darker the larger the batch."""
    return {"color": str(0.65 * (1 - number / max(1, of - 1))), "linewidth": 1.2}


def _name_steps(axes: Any, loads: pd.DataFrame, batches: Sequence[Any]) -> None:
    """What batch a line is of, beside the middle of its fall."""
    for batch in batches:
        mine = loads[loads["place"] == batch]
        half = mine[mine["value"] >= 0.35].iloc[-1]
        axes.annotate(
            f"{batch:g}" if batch != batches[0] else f"batch {batch:g}",
            (half["tokens"], 100 * half["value"]),
            (3, 3),
            textcoords="offset points",
            fontsize=6.5,
        )
