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
    if options.kind == "models" and not options.json:
        _models()
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


def _models() -> None:
    """One line for each model, in columns."""
    from experiments.catalogue import load
    from experiments.compose import choices
    from simulator.model import ModelSpec

    rows = [("", "total", "active", "stored", "MoE layers", "experts", "top-k", "one expert")]
    for name in choices()["model"]:
        model = ModelSpec.from_mapping(load("model", name), f"model {name}")
        stored = model.dense_bytes + model.parts()["routed_experts"][1]
        routed = ("dense", "", "", "")
        if model.experts:
            layers, size = f"{len(model.moe_layers)} of {model.layers}", f"{model.expert_bytes / 2**20:.1f} MiB"
            routed = (layers, str(model.experts), str(model.top_k), size)
        counts = (f"{model.total_params / 1e9:.1f} B", f"{model.active_params() / 1e9:.1f} B")
        rows.append((name, *counts, f"{stored / 2**30:.1f} GiB", *routed))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        right = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        print("  ".join([f"{name:{widths[0]}}", *right]).rstrip())
