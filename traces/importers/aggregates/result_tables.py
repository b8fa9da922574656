"""Knows tables of results of cache experiments, which hold no routing at all.

CSV tables of moe-cache-eval (misses by policy, unions of experts by arm) and Expertflow (pairs of runs), and the JSON
of Expertflow's runs.
"""

from __future__ import annotations

from pathlib import Path

from traces.importers._json import first_bytes
from traces.importers.aggregates._aggregates import Aggregates
from traces.schema import TraceError

DESCRIPTION = "a table of results (misses, times or sizes by policy or run), which holds no routing"
_CSV_HEADERS = (b"condition,permutation_seed,best_causal_policy", b"arm,category,band_start", b"source,pair,order,mode")
_JSON_KEYS = ((b'"verdict"', b'"decode_tps"'), (b'"expertflow_commit"',))


def recognise(path: Path) -> bool:
    """Return whether the file starts as one of these tables does."""
    head = first_bytes(path, 4096)
    if head.startswith(_CSV_HEADERS):
        return True
    return head.lstrip().startswith(b"{") and any(all(key in head for key in keys) for keys in _JSON_KEYS)


def read(path: Path) -> Aggregates:
    """Refuse: there is nothing to read that would tell how popular an expert is."""
    raise TraceError(f"{path.name}: the file is {DESCRIPTION}.")
