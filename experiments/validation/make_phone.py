"""Makes data/phone/tokens.parquet, the decoded tokens of the phone's recorded runs, from their sources.

    python -m experiments.validation.make_phone SOURCE [--out FILE]

SOURCE is a folder in which the files named below are found at any depth; data/phone/README.md says where they
are from.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.run import write_table
from experiments.validation.phone_runs import DATA
from traces.data.make import find
from traces.importers.phone_route_csv import read_accesses
from traces.schema import DECODE

if TYPE_CHECKING:
    import pandas as pd

FILES = {
    "qwen": "qwen.metrics",
    "gemma": "gemma.metrics",
    "qwen_top_8": "qwen_kdef.csv",
    "qwen_lru_a": "qwen-lru_a.csv",
    "qwen_lru_b": "qwen-lru_b.csv",
    "qwen_lfu_a": "qwen-lfu_a.csv",
    "qwen_lfu_b": "qwen-lfu_b.csv",
}
ROUTES = {"qwen": "qwen.route.csv", "gemma": "gemma.route.csv"}
TIMES = {"wall_ms": "wall_s", "compute_ms": "compute_s", "stall_ms": "stall_s", "mgmt_ms": "management_s"}


def main(arguments: list[str] | None = None) -> None:
    """Write the table anew; the same sources give the same bytes."""
    import pandas as pd

    parser = argparse.ArgumentParser(prog="python -m experiments.validation.make_phone", description=__doc__)
    parser.add_argument("source", type=Path, help="folder with the source files")
    parser.add_argument("--out", type=Path, default=DATA / "tokens.parquet", help="the file to write")
    options = parser.parse_args(arguments)
    write_table(pd.concat([tokens(options.source, run) for run in FILES], ignore_index=True), options.out)


def tokens(source: Path, run: str) -> pd.DataFrame:
    """One row per decoded token of a run; `misses` are counted from its route and missing without one."""
    import numpy as np
    import pandas as pd

    recorded = pd.read_csv(find(source, FILES[run]), comment="#")
    table = pd.DataFrame({"run": run, "token": recorded["step"].astype("int16")})
    for name, seconds in TIMES.items():
        table[seconds] = (recorded[name] / 1e3).round(6)
    table["hit_rate"] = (recorded["cache_hit_pct"] / 100).round(4)
    table["major_faults"] = recorded["majflt"].astype("int32")
    table["misses"] = pd.array([pd.NA] * len(table), dtype="Int16")
    if run in ROUTES:
        rows = read_accesses(find(source, ROUTES[run]))
        decode = rows[rows["phase"] == DECODE]
        first = int(decode["position"].min())
        counts = np.bincount(decode["position"] - first, weights=decode["residency"] == 0, minlength=len(table))
        table["misses"] = pd.array(counts.astype(int), dtype="Int16")
    return table


if __name__ == "__main__":
    main()
