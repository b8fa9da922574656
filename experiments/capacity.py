"""Capacity: which layout and batch give the most tokens per second and GPU under an SLO and a memory budget.

Every layout that an engine could be started with on 1 to all GPUs of the platform (`layouts`), times the largest
batches, as ordinary points of a sweep. Limits are applied to what came out, so that the same folder answers for
another SLO without a run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.compose import axes, compose_config
from experiments.explain import ConfigError
from experiments.run import check_folder, scenario_from_config
from experiments.sweep.points import Composer, Point, check_ranges
from experiments.sweep.runner import Progress
from experiments.sweep.sweep import REQUESTS, Report, run_points, sweep_folder
from experiments.sweep.tables import write_file
from simulator.layout import Layout
from simulator.model import ModelSpec
from simulator.model_attention import AttentionSpec

if TYPE_CHECKING:
    import pandas as pd

TABLE, STEM, RUNS = "capacity.csv", "pareto", "runs"
MAX_BATCH = "policy.scheduling.max_batch"
DEFAULTS = {
    "policy/scheduling": "continuous",
    "policy/placement": "popular",
    "reference": "false",
    MAX_BATCH: "4,16,64,256",
}
PARTS = ("gpus", "tp", "attention_dp", "moe_tp", "moe_ep")
PERCENTILES = (50, 90, 99)
GIB = 2**30
_DEFECT = re.compile(r"\(\S+\.py, line \d+\)\.$")  # how the runner ends what is no error of the input


@dataclass(frozen=True)
class Limits:
    """What a point has to hold; None: no limit. Percentiles are over requests.

    slo_ttft_s, slo_tpot_s: seconds at `percentile`; memory_gib: peak of the fullest GPU, in GiB.
    Raises ConfigError for limits that are not above 0, or another percentile than 50, 90, 99.
    """

    slo_ttft_s: float | None = None
    slo_tpot_s: float | None = None
    memory_gib: float | None = None
    percentile: int = 99

    def __post_init__(self) -> None:
        for name in ("slo_ttft_s", "slo_tpot_s", "memory_gib"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--{name.replace('_', '-')} is {value:g}; expected more than 0.")
        if self.percentile not in PERCENTILES:
            raise ConfigError(f"--percentile is {self.percentile}; expected one of {', '.join(map(str, PERCENTILES))}.")

    @property
    def ttft(self) -> str:
        """The column of time to first token."""
        return f"ttft_p{self.percentile}_s"

    @property
    def tpot(self) -> str:
        """The column of time per token."""
        return f"tpot_p{self.percentile}_s"


@dataclass(frozen=True)
class Capacity:
    """What came out. table: a row for each point, as in capacity.csv; failed: number of the point -> a defect."""

    folder: Path
    table: pd.DataFrame
    reused: int
    requests: int
    failed: dict[int, str]

    @property
    def front(self) -> pd.DataFrame:
        """The points within the memory budget that no other beats, most throughput per GPU first."""
        return self.table[self.table["on_front"]].sort_values("tokens_per_s_per_gpu", ascending=False, kind="stable")

    @property
    def best(self) -> pd.DataFrame:
        """The row of the point with most throughput per GPU that holds all limits; no row if there is none."""
        return self.table[self.table["best"]]


def layouts(gpus: int, model: ModelSpec) -> list[Layout]:
    """Layouts of one stage on g GPUs, for each divisor g of `gpus`: attention cut `tp` ways in g / tp groups, experts
    either all cut or all dealt. As in serving engines, `tp` divides the heads, what cuts experts their width, and what
    deals them their number.
    """
    heads = [kind.heads for kind in model.attention.values() if isinstance(kind, AttentionSpec)]
    found = []
    for count in _divisors(gpus):
        cut = [(count, 1)] if model.expert_intermediate % count == 0 else []
        dealt = [(1, count)] if model.experts and model.experts % count == 0 else []
        for tp in _divisors(count):
            if any(number % tp for number in heads):
                continue
            found += [Layout(tp, count // tp, *experts) for experts in dict.fromkeys((*cut, *dealt))]
    return found


def capacity(
    overrides: Sequence[str],
    limits: Limits,
    folder: Path | None = None,
    *,
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Capacity:
    """Run all layouts and batches, and write capacity.csv and the figure `pareto`.

    overrides: what every point has; `policy.scheduling.max_batch` may list values. folder: None for
    runs/capacity/<name>. workers, report: as `experiments.sweep.sweep`. Points that the simulator refuses, as they do
    not fit, are rows with the reason. Raises ConfigError for overrides or a folder that cannot be used, or if no point
    runs, SweepError if it had to stop.
    """
    listed = _points(overrides)
    name = listed[0].config["name"]
    sweep_folder(name)  # refuses what names no folder
    folder = folder or Path("runs") / "capacity" / name
    check_folder(folder, (RUNS, TABLE, f"{STEM}.png", f"{STEM}.pdf"), RUNS)
    done = run_points(overrides, listed, folder / RUNS, workers, report)
    if not len(done.points):
        raise ConfigError(f"no layout runs; the first is refused with: {next(iter(done.failures.values()))}")
    table = judged(_table(listed, done, limits), limits)
    write_file(table, folder / TABLE)
    _draw(table, folder, limits)
    failed = {number: why for number, why in done.failures.items() if _DEFECT.search(why)}
    return Capacity(folder, table, done.reused, int(done.points["requests"].max()), failed)


def judged(table: pd.DataFrame, limits: Limits) -> pd.DataFrame:
    """The table with `infeasible` filled for points above the memory budget, and the columns slo_met, on_front, best.

    Raises ConfigError if there is a limit of TTFT, and no point has one.
    """
    from experiments.results import pareto

    table = table.copy()
    if limits.memory_gib is not None:
        for row in table.index[table["memory_peak_bytes"] > limits.memory_gib * GIB]:
            peak_gib = table.loc[row, "memory_peak_bytes"] / GIB
            text = f"its fullest GPU holds {peak_gib:.2f} GiB; the budget is {limits.memory_gib:g} GiB."
            table.loc[row, "infeasible"] = text
    fits = table["infeasible"] == ""
    met = fits.copy()
    for column, limit_s in ((limits.ttft, limits.slo_ttft_s), (limits.tpot, limits.slo_tpot_s)):
        if limit_s is None:
            continue
        if table[column].isna().all():
            raise ConfigError(
                f"--slo-{column[:4]}-s is set, but no point has a {column[:4].upper()}; expected"
                " workload.synthetic_prefill=true or a trace with prompts, and requests of two tokens or more."
            )
        met &= table[column] <= limit_s
    known = table[fits & table[limits.tpot].notna()]
    front = pareto(known, minimise=[limits.tpot], maximise=["tokens_per_s_per_gpu"]).index if len(known) else []
    table["slo_met"], table["on_front"], table["best"] = met, table.index.isin(front), False
    if met.any():
        table.loc[table.loc[met, "tokens_per_s_per_gpu"].idxmax(), "best"] = True  # the first of equal ones
    return table


def _points(overrides: Sequence[str]) -> list[Point]:
    """A point for each layout and batch, with what is not overridden as in DEFAULTS."""
    check_ranges(overrides)
    given = {item.partition("=")[0].lstrip("+~") for item in overrides}
    parts = sorted(key for key in given if key.startswith("layout.") and key != "layout.mirrored")
    if parts:
        raise ConfigError(f"{parts[0]}: capacity chooses the layout itself; leave it out.")
    added = [f"{key}={value}" for key, value in DEFAULTS.items() if key not in given]
    listed = axes([*overrides, *added])
    for key, items in listed.items():
        if len(items) > 1 and key != MAX_BATCH:
            raise ConfigError(
                f"{key} has {len(items)} values; expected one, as capacity varies layouts and {MAX_BATCH}."
            )
    scenario = scenario_from_config(compose_config([items[0] for items in listed.values()]))
    found = layouts(len(scenario.platform.workers), scenario.model)
    for part in PARTS:
        listed[f"layout.{part}"] = list(dict.fromkeys(f"layout.{part}={getattr(one, part)}" for one in found))
    composer = Composer(listed)
    points: list[Point] = []
    for one in found:
        for batch in listed[MAX_BATCH]:
            made = {f"layout.{part}": f"layout.{part}={getattr(one, part)}" for part in PARTS} | {MAX_BATCH: batch}
            points.append(composer.point(len(points), [made.get(key, items[0]) for key, items in listed.items()]))
    return points


def _table(listed: Sequence[Point], done: Report, limits: Limits) -> pd.DataFrame:
    """A row for each point: layout, batch, throughput, latencies and memory (missing if refused), why infeasible."""
    import pandas as pd

    requests = pd.read_parquet(done.folder / REQUESTS)
    tpots_s = requests[~requests["warmup"]].groupby("point")["tpot_s"].quantile(limits.percentile / 100)
    finished: dict[int, dict[str, Any]] = {row["point"]: row for row in done.points.to_dict("records")}
    rows = []
    for point in listed:
        parts = {part: point.config["layout"][part] for part in PARTS}
        named = str(Layout(**{part: value for part, value in parts.items() if part != "gpus"}))
        batch = point.config["policy"]["scheduling"]["max_batch"]
        measured = finished.get(point.number, {})
        per_gpu = {key: measured.get(key, float("nan")) / parts["gpus"] for key in ("tokens_per_s", "requests_per_s")}
        rows.append(
            {
                "point": point.number,
                "layout": named.removesuffix(", PP 1"),
                **parts,
                "max_batch": batch,
                "tokens_per_s": measured.get("tokens_per_s"),
                "tokens_per_s_per_gpu": per_gpu["tokens_per_s"],
                "requests_per_s_per_gpu": per_gpu["requests_per_s"],
                limits.ttft: measured.get(limits.ttft),
                limits.tpot: tpots_s.get(point.number),
                "hit_rate": measured.get("hit_rate"),
                "memory_peak_bytes": measured.get("memory_peak_bytes"),
                "infeasible": done.failures.get(point.number, ""),
            }
        )
    table = pd.DataFrame(rows)
    numbers = ["tokens_per_s", limits.ttft, limits.tpot, "hit_rate", "memory_peak_bytes"]
    return table.astype(dict.fromkeys(numbers, "float64"))


def _draw(table: pd.DataFrame, folder: Path, limits: Limits) -> None:
    """The figure of points within the budget; none if there are none."""
    from experiments.figures.pareto import pareto_front

    known = table[(table["infeasible"] == "") & table[limits.tpot].notna()]
    if not len(known):
        for ending in ("png", "pdf"):
            (folder / f"{STEM}.{ending}").unlink(missing_ok=True)
        return
    said = [f"{row.layout}, batch {row.max_batch}" for row in known.itertuples()]
    known = known.assign(said=said, GPUs=known["gpus"].map(lambda gpus: f"{gpus} GPU{'s' * (gpus > 1)}"))
    aims: dict[str, Any] = {"minimise": [limits.tpot], "maximise": ["tokens_per_s_per_gpu"], "front": "on_front"}
    pareto_front(known, folder / STEM, x=limits.tpot, y="tokens_per_s_per_gpu", series="GPUs", name="said", **aims)


def _divisors(number: int) -> list[int]:
    return [value for value in range(1, number + 1) if number % value == 0]
