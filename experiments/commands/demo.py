"""`moesim demo`: what the simulator does, in a minute."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.commands.run import progress_bar
from experiments.demo import FILES, curve_configs, make_demo, system_configs
from experiments.run import check_folder
from experiments.table import percent, seconds


def main(options: argparse.Namespace) -> int:
    """Run the demonstration, print its comparison, and say what was written."""
    from rich.console import Console
    from rich.table import Table

    folder = Path(options.out)
    check_folder(folder, FILES)
    console = Console(highlight=False, soft_wrap=True)
    systems, curves = system_configs(options.requests), curve_configs()
    console.print(
        f"gpt-oss-20b decoding {options.requests} requests on a desktop with an RTX 3060 12 GB, 4 GiB of it for"
        " experts, the rest in host memory."
    )
    with progress_bar([*systems, *curves], hidden=False) as track:
        comparison = make_demo(folder, systems, curves, track)
    table = Table(title="fastest first", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("system", no_wrap=True)
    for column in ("tokens/s", "TPOT", "hit rate", "PCIe GB\nper token", "waiting\nfor PCIe", "of clair-\nvoyant"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in comparison.to_dict("records"):
        table.add_row(
            row["name"],
            f"{row['tokens_per_s']:.1f}",
            seconds(row["tpot_s"]),
            percent(row["hit_rate"]),
            f"{row['pcie_bytes_per_token'] / 1e9:.3f}",
            percent(row["pcie_share"]),
            percent(row["reference_fraction"]),
        )
    console.print(table)
    console.print(
        "clairvoyant: Belady's evictions and a prefetcher that knows the future, loading every missing expert;\n"
        "running missing experts on the CPU may beat it, as that needs no PCIe.\n"
        f"\nwritten to {folder.as_posix()}:\n"
        "  figures/            tokens_per_s, time_per_token, cache_size (PNG and PDF)\n"
        "  comparison.csv      this table with more columns; also as Parquet; cache_size.csv for the curves\n"
        "  lru/ ... belady/    a folder for each run: summary, configuration, provenance, tables\n"
        "  timeline.json       four tokens; open it at https://ui.perfetto.dev\n"
        "\nnext:\n"
        "  moesim run system=transition_prefetch cache_gib=6 workload.requests=8\n"
        "  moesim run experiment=cache_size -m\n"
        "  moesim list systems"
    )
    return 0
