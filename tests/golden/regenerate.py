"""Writes the kept numbers anew, after a change that is meant: `python -m tests.golden.regenerate`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.golden.runs import RUNS, numbers

FOLDER = Path(__file__).parent


def main() -> None:
    """One JSON file per run; says what moved."""
    for name, golden in RUNS.items():
        path = FOLDER / f"{name}.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        now = numbers(golden.run())
        path.write_text(json.dumps(now, indent=1) + "\n")
        for line in drift(before, now) if before else ["new"]:
            print(f"{name}: {line}")
    for path in set(FOLDER.glob("*.json")) - {FOLDER / f"{name}.json" for name in RUNS}:
        path.unlink()


def drift(before: dict[str, int], now: dict[str, int]) -> list[str]:
    """A line for each number that moved: from what to what, by how much."""
    lines = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if old is None or new is None:
            lines.append(f"{key} {'is new' if old is None else 'is gone'} ({new if old is None else old})")
        elif old != new:
            relative = f", {100 * (new - old) / old:+.4g} %" if old else ""
            lines.append(f"{key} moved from {old} to {new} ({new - old:+d}{relative})")
    return lines


if __name__ == "__main__":
    main()
