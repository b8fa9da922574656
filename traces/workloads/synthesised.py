"""Routing for tokens beyond the recorded ones, drawn from a model fitted to the requests that need it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from traces.reader import Trace

if TYPE_CHECKING:
    from traces.synthesis import RoutingModel

AVAILABLE = find_spec("traces.synthesis") is not None


class Synthesiser:
    """Draws experts in the manner of some requests of a trace; fits when first asked, seconds for each of them."""

    def __init__(self, trace: Trace, indices: Sequence[int]) -> None:
        self._trace = trace
        self._indices = tuple(sorted(set(indices)))

    def experts(self, index: int, tokens: int, rng: np.random.Generator) -> np.ndarray:
        """Experts int16 [tokens, L, k] of a request of the kind of the trace's request `index`."""
        from traces.synthesis.generate import generate

        model = _fitted(self._trace, self._indices)
        kinds = model.requests.kinds  # of long traces some requests are left out of the fit
        kind = kinds[self._indices.index(index) * len(kinds) // len(self._indices)]
        return generate(model, np.array([tokens]), np.array([kind]), rng)[0, :tokens]


@lru_cache(maxsize=8)
def _fitted(trace: Trace, indices: tuple[int, ...]) -> RoutingModel:
    from traces.synthesis import fit_trace

    return fit_trace(trace, list(indices))
