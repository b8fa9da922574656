"""Statistics of a trace, each beside a control; one module per theme, `summarise` for all of them."""

from __future__ import annotations

from traces.statistics.keys import BY_LAYER, KEYS
from traces.statistics.summary import summarise

__all__ = ["BY_LAYER", "KEYS", "summarise"]
