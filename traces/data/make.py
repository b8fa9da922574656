"""Makes the shipped traces, and the phone's recorded accesses used by the tests, from their sources.

    python -m traces.data.make SOURCE [--reference FOLDER]

SOURCE is a folder in which the files named below are found at any depth; README.md says where they are from.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from traces import DATA_FOLDER, TraceError
from traces.importers import import_trace
from traces.importers.phone_route_csv import read_accesses

PHONE_COMMIT = "2d4f2b11db128cbe32da738ce114c0479542f458"
PHONE_PROMPT = (
    "one prompt: 'Explain how a mixture-of-experts model decides which experts handle each token.' "
    "(chat template, no thinking)"
)
GPT_OSS_REQUESTS = 40


def main(arguments: list[str] | None = None) -> None:
    """Write every file anew; the same sources give the same bytes."""
    parser = argparse.ArgumentParser(prog="python -m traces.data.make", description=__doc__)
    parser.add_argument("source", type=Path, help="folder with the source files")
    parser.add_argument("--reference", type=Path, help="folder for the phone's recorded accesses")
    options = parser.parse_args(arguments)
    source: Path = options.source

    long_table = find(source, "gpt-oss-20b_mmlu.parquet")
    described = json.loads(find(source, "gpt-oss-20b_mmlu.requests.json").read_text(encoding="utf-8"))
    import_trace(
        long_table,
        DATA_FOLDER / "gpt_oss_20b.parquet",
        requests=select_requests(described, GPT_OSS_REQUESTS),
        dataset="MMLU (test and validation questions), model's own answers",
    )
    import_trace(
        find(source, "olmoe-1b-7b_warp.parquet"),
        DATA_FOLDER / "olmoe_1b_7b.parquet",
        dataset="one C-coding prompt, temperature 0.7",
        notes="decode only, batch 1; ids sorted ascending (rank lost), no weights; "
        "model as recorded: OLMoE-1B-7B (revision not recorded)",
    )
    for tag, name in (("qwen", "qwen3_30b_a3b_phone"), ("gemma", "gemma_4_26b_a4b_phone")):
        route = find(source, f"{tag}.route.csv")
        import_trace(
            route,
            DATA_FOLDER / f"{name}.parquet",
            dataset=PHONE_PROMPT,
            licence="Apache-2.0",
            origin=f"github Helldez/BigMoeOnEdge@{PHONE_COMMIT} docs/bench-data/2026-07-15-route-trace/{tag}.route.csv",
        )
        if options.reference is not None:
            write_accesses(route, options.reference / f"{tag}-accesses.parquet")


def select_requests(described: list[dict[str, Any]], count: int) -> list[int]:
    """Return the ids of `count` requests, one for each of as many categories, half of them short, half long.

    Requests flagged as looping (``repetition``) are left out. Of the categories in alphabetical order `count`
    are taken at even distances; from them in turn the request with the fewest and with the most routed tokens
    (of equals the lowest id).
    """
    by_category: dict[str, list[dict[str, Any]]] = {}
    for entry in described:
        if not entry["repetition"]:
            by_category.setdefault(entry["category"], []).append(entry)
    names = sorted(by_category)
    chosen = []
    for turn in range(count):
        entries = by_category[names[turn * len(names) // count]]
        sign = 1 if turn % 2 == 0 else -1
        chosen.append(min(entries, key=lambda entry: (sign * entry["routed_tokens"], entry["request"]))["request"])
    return sorted(chosen)


def write_accesses(route: Path, destination: Path) -> None:
    """Write the recorded accesses of a single-turn route file as a Parquet table, rows in file order."""
    accesses = read_accesses(route)
    names = ["position", "phase", "layer", "slot", "expert", "residency", "expert_bytes"]
    table = pa.table({name: pa.array(accesses[name].copy()) for name in names})
    destination.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, destination, compression="zstd", compression_level=19, write_statistics=False)


def find(folder: Path, name: str) -> Path:
    """Return the first file called `name` below `folder`; raises TraceError if there is none."""
    for path in sorted(folder.rglob(name)):
        return path
    raise TraceError(f"{folder}: the source file '{name}' is not below this folder.")


if __name__ == "__main__":
    main()
