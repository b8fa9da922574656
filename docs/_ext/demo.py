"""`make demo-page`: runs `moesim demo` and writes README's table, and docs/images/demo_tokens_per_s.png with demo.csv.

The CSV is what the table is made of; a test compares both with each other and with a run.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import pandas as pd

from experiments.cli import main
from experiments.table import percent, seconds

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "docs" / "images" / "demo_tokens_per_s.png"
ROWS = ROOT / "docs" / "images" / "demo.csv"
CALLED = {  # in the table, where the figure's name is too short to be understood
    "LRU + oracle": "LRU + oracle prefetch",
    "LRU + transitions": "LRU + transition-table prefetch",
    "Belady": "Belady (clairvoyant eviction)",
    "CPU in place": "popular experts pinned, others on the CPU",
}
_TABLE = re.compile(r"\| system \| tokens/s \|.*?\n\n", re.DOTALL)


def table(rows: pd.DataFrame) -> str:
    """README's table of the demo's comparison.csv, with the empty line that ends it."""
    lines = [
        "| system | tokens/s | TPOT | hit rate | PCIe per token | waiting for PCIe | of the clairvoyant reference |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows.to_dict("records"):
        cells = [
            CALLED.get(row["name"], row["name"]),
            f"{row['tokens_per_s']:.1f}",
            seconds(row["tpot_s"]),
            percent(row["hit_rate"]),
            f"{row['pcie_bytes_per_token'] / 1e9:.3f} GB",
            percent(row["pcie_share"]),
            percent(row["reference_fraction"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n"


def take(folder: Path) -> None:
    """Table, figure and rows from what `moesim demo` wrote to `folder`."""
    shutil.copyfile(folder / "comparison.csv", ROWS)
    shutil.copyfile(folder / "figures" / "tokens_per_s.png", IMAGE)
    readme = ROOT / "README.md"
    text, found = _TABLE.subn(lambda _: table(pd.read_csv(ROWS)), readme.read_text(encoding="utf-8"))
    assert found == 1, "README.md has no table of the demo"
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(["demo", "--out", f"{folder}/demo"])
        take(Path(folder) / "demo")
