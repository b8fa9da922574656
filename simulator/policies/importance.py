"""How much a layer's experts matter to the tokens of a step, for policies that rank experts by it."""

from __future__ import annotations

import numpy as np

from simulator.routing import Routing


def gate_values(routing: Routing, layer: int, experts: int) -> np.ndarray:
    """Router's probability of each expert, summed over the step's tokens, [experts]; where the trace has none, the
    gate weights of the chosen ones.

    SwapMoE (arXiv 2308.15030, section 3.2) multiplies it with the norms of the input and of the expert's weights,
    which are taken as equal here.
    """
    probabilities = routing.probabilities(layer)
    if probabilities is not None and not np.isnan(probabilities).any():
        return np.asarray(probabilities.sum(axis=0))
    total = np.zeros(experts)
    for expert, share in routing.shares(layer).items():
        total[expert] = share
    return total
