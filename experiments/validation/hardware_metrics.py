"""What claims on hardware compute from several runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def best_rival_over(runs: Mapping[str, Any], ours: str, key: str) -> float:
    """The least of a time, a key of the summary, among the other runs, over that of `ours`: above 1, ours is faster."""
    return min(float(run.summary[key]) for name, run in runs.items() if name != ours) / float(runs[ours].summary[key])
