"""Rewrites the tables of constants in docs/energy.md: python docs/_ext/energy_constants.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwmodels.energy import technologies

PAGE = Path(__file__).resolve().parents[1] / "energy.md"
BEGIN, END = "<!-- written by docs/_ext/energy_constants.py from hwmodels/energy.yaml -->", "<!-- end -->"


def with_constants(page: str) -> str:
    """The page with the tables that the data file makes. The page must hold both marks."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    known = technologies()
    lines = ["", "", "| memory | read, pJ/bit | write, pJ/bit | background, W/GB | origin | source |"]
    lines.append("|---|---:|---:|---:|---|---|")
    columns = ("read_pj_per_bit", "write_pj_per_bit", "background_w_per_gb")
    lines += [_row(name, [entry.get(key) for key in columns], entry) for name, entry in known["memories"].items()]
    lines += ["", "| link | pJ/bit | origin | source |", "|---|---:|---|---|"]
    lines += [_row(name, [entry["pj_per_bit"]], entry) for name, entry in known["links"].items()]
    lines += ["", "| process | pJ per operation | origin | source |", "|---|---|---|---|"]
    for name, entry in known["processes"].items():
        lines.append(_row(name, [", ".join(f"{dtype} {value:g}" for dtype, value in entry["flop_pj"].items())], entry))
    sheets = known["inferred"]["datasheets"].items()
    lines += ["", "| GPU, by datasheet | memory | process |", "|---|---|---|"]
    lines += [f"| `{name}` | {memory} | {process} |" for name, (memory, process) in sheets]
    return "\n".join([before + BEGIN, *lines[1:], "", END]) + after


def _row(name: str, values: list[Any], entry: dict[str, Any]) -> str:
    cells = ["-" if value is None else f"{value}" for value in values]
    return " | ".join([f"| `{name}`", *cells, entry["origin"], " ".join(entry["source"].split())]) + " |"


if __name__ == "__main__":
    PAGE.write_text(with_constants(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
