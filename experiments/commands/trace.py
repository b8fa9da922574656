"""`moesim trace import`: convert a trace of another format."""

from __future__ import annotations

import argparse


def main(options: argparse.Namespace) -> int:
    """Convert a foreign file and say what came out."""
    from traces.importers import import_trace

    trace = import_trace(
        options.source,
        options.destination,
        model=options.model,
        native_top_k=options.native_top_k,
        dataset=options.dataset,
        licence=options.licence,
        origin=options.origin,
    )
    meta = trace.meta
    tokens = sum(request.tokens for request in trace.requests)
    print(
        f"{options.destination}: {meta.model}, {len(trace)} requests, {tokens} tokens, {len(meta.layers)} layers of"
        f" {meta.num_experts} experts, top-{meta.top_k}"
    )
    print(f"use it with: moesim run trace={options.destination}")
    return 0
