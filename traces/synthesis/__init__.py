"""Synthetic routing: a generative model, fitted to a recorded trace or to published figures, and what it draws."""

from __future__ import annotations

from traces.synthesis.fit import fit_trace
from traces.synthesis.model import RoutingModel
from traces.synthesis.profile import profile_names, read_profile
from traces.synthesis.rescale import rescale
from traces.synthesis.write import synthesize

__all__ = ["RoutingModel", "fit_trace", "profile_names", "read_profile", "rescale", "synthesize"]
