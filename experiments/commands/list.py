"""`moesim list`: what there is to choose from."""

from __future__ import annotations

import argparse
import json


def main(options: argparse.Namespace) -> int:
    """Print one line for each choice."""
    from experiments.catalogue import listed
    from experiments.cli import KINDS

    if options.kind is None:
        print("\n".join(f"moesim list {kind}" for kind in KINDS))
        return 0
    entries = listed(options.kind)
    if options.json:
        print(json.dumps(entries, indent=2, ensure_ascii=False))
        return 0
    *short, last = entries[0]
    width = {key: max(len(entry[key]) for entry in entries) for key in short}
    for entry in entries:
        print("  ".join([*(f"{entry[key]:{width[key]}}" for key in short), entry[last]]).rstrip())
    return 0
