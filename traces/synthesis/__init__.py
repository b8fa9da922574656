"""Synthetic routing: a generative model, fitted to a recorded trace or to published figures, and what it draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traces.synthesis.model import RoutingModel
from traces.synthesis.profile import profile_names, read_profile
from traces.synthesis.rescale import rescale
from traces.synthesis.write import synthesize

if TYPE_CHECKING:
    from traces.synthesis.fit import fit_trace

__all__ = ["RoutingModel", "fit_trace", "profile_names", "read_profile", "rescale", "synthesize"]


def __getattr__(name: str) -> Any:
    if name == "fit_trace":  # whoever only draws need not wait for the optimisers
        from traces.synthesis.fit import fit_trace

        return fit_trace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
