"""Nine systems on a real trace, compared: the runs, tables and figures behind `moesim demo`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from experiments.compose import compose_config
from experiments.run import MARK, replaced, run_config, write_json, write_result, write_table, write_timeline

if TYPE_CHECKING:
    import pandas as pd

    from simulator.result import Result

# run folder -> (name to show, what is chosen); the first computes the reference for all
SYSTEMS: dict[str, tuple[str, list[str]]] = {
    "lru": ("LRU", []),
    "lfu": ("LFU", ["policy/cache=lfu"]),
    "fifo": ("FIFO", ["policy/cache=fifo"]),
    "s3fifo": ("S3-FIFO", ["policy/cache=s3fifo"]),
    "random": ("random", ["policy/cache=random"]),
    "lru_transition": ("LRU + transitions", ["policy/prediction=transition"]),
    "lru_oracle": ("LRU + oracle", ["policy/prediction=oracle"]),
    "belady": ("Belady", ["policy/cache=belady"]),
    "cpu_in_place": ("CPU in place", ["system=cpu_in_place"]),
}
CURVE_POLICIES = {"LRU": "lru", "LFU": "lfu", "S3-FIFO": "s3fifo"}
CURVE_GIB = (1, 2, 3, 4, 6, 8)
FILES = (
    MARK,
    "comparison.csv",
    "comparison.parquet",
    "cache_size.csv",
    "cache_size.parquet",
    "timeline.json",
    "figures",
    *SYSTEMS,
)
Track = Callable[[int], Callable[[int], None] | None]


def system_configs(requests: int) -> list[DictConfig]:
    """The configurations of the nine runs."""
    configs = []
    for number, (name, (_, chosen)) in enumerate(SYSTEMS.items()):
        reference = f"reference={'true' if number == 0 else 'false'}"
        configs.append(
            compose_config(["experiment=demo", f"workload.requests={requests}", f"name={name}", reference, *chosen])
        )
    return configs


def curve_configs() -> list[DictConfig]:
    """The configurations of the curves over cache sizes: fewer and shorter requests."""
    common = ["experiment=demo", "workload.requests=3", "workload.max_decode_tokens=96"]
    base = compose_config([*common, "name=cache_size"])
    configs = []
    for policy in CURVE_POLICIES.values():
        chosen = compose_config([*common, f"policy/cache={policy}"]).policy
        for gib in CURVE_GIB:
            cfg = base.copy()
            cfg.policy = chosen
            cfg.cache_gib = gib
            cfg.reference = policy == "lru"
            configs.append(cfg)
    return configs


def make_demo(folder: Path, systems: list[DictConfig], curves: list[DictConfig], track: Track) -> pd.DataFrame:
    """Run everything, write `folder` (all or nothing) and return the comparison, fastest first.

    Raises ConfigError if the folder holds something else, and what `run_config` raises.
    """
    import pandas as pd

    from experiments.figures.cache_size import cache_size_curves
    from experiments.figures.policies import speed_bars, time_stacks

    with replaced(folder, FILES) as temporary:
        rows: list[dict[str, Any]] = []
        for number, (cfg, (shown, _)) in enumerate(zip(systems, SYSTEMS.values(), strict=True)):
            result = run_config(cfg, track(number))
            rows.append(_row(shown, result, rows[0] if rows else None))
            write_result(result, cfg, temporary / cfg.name)
            if number == 0:
                summary, provenance = result.summary, result.provenance
        comparison = pd.DataFrame(rows).fillna({column: 0.0 for row in rows for column in row if "_share" in column})
        comparison = comparison.sort_values(["tokens_per_s", "name"], ascending=[False, True], ignore_index=True)
        points = [
            _point(cfg, run_config(cfg, track(len(systems) + number)), policy)
            for number, (cfg, policy) in enumerate(
                zip(curves, [name for name in CURVE_POLICIES for _ in CURVE_GIB], strict=True)
            )
        ]
        sizes = pd.DataFrame(points).astype({"reference_tpot_s": "float64", "reference_hit_rate": "float64"})
        for name, table in (("comparison", comparison), ("cache_size", sizes)):
            for suffix in ("csv", "parquet"):
                write_table(table, temporary / f"{name}.{suffix}")
        drawings = temporary / "figures"
        reference, bound = (1 / summary[f"{kind}_tpot_s"] for kind in ("reference", "physics"))
        speed_bars(comparison, reference, bound, drawings / "tokens_per_s")
        time_stacks(comparison, drawings / "time_per_token")
        cache_size_curves(sizes, drawings / "cache_size")
        _timeline(temporary / "timeline.json")
        write_json(temporary / MARK, {**provenance, "system": "moesim demo"})
    return comparison


def _row(shown: str, result: Result, first: dict[str, Any] | None) -> dict[str, Any]:
    """One line of the comparison; the reference is that of the first."""
    summary, links = result.summary, result.links
    pcie_bytes = int(links.loc[links["kind"] == "pcie", "delivered_bytes"].sum())
    reference = first["reference_tpot_s"] if first else summary["reference_tpot_s"]
    return {
        "name": shown,
        "tokens_per_s": summary["tokens_per_s"],
        "tpot_s": summary["tpot_mean_s"],
        "hit_rate": summary["hit_rate"],
        "late_rate": summary["late_rate"],
        "on_cpu_rate": summary["on_cpu_rate"],
        "pcie_bytes_per_token": pcie_bytes / summary["decode_tokens"],
        "reference_tpot_s": reference,
        "reference_fraction": reference / summary["tpot_mean_s"],
        "energy_per_token_j": summary["energy_per_token_j"],
        **{f"{cause}_share": share for cause, share in summary["attribution"].items()},
    }


def _point(cfg: DictConfig, result: Result, policy: str) -> dict[str, Any]:
    summary = result.summary
    return {
        "policy": policy,
        "cache_gib": float(cfg.cache_gib),
        "hit_rate": summary["hit_rate"],
        "tpot_s": summary["tpot_mean_s"],
        "reference_hit_rate": summary["reference_hit_rate"],
        "reference_tpot_s": summary["reference_tpot_s"],
    }


def _timeline(path: Path) -> None:
    """The first tokens with prefetching, cold, as a Chrome trace."""
    chosen = ["policy/prediction=transition", "workload.requests=1", "workload.max_decode_tokens=4"]
    cfg = compose_config(["experiment=demo", "timeline=true", "reference=false", *chosen])
    write_timeline(run_config(cfg), path)
