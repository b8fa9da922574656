"""Role `gating`: whether what the router chose is changed before it is looked up."""

from __future__ import annotations

import numpy as np

from simulator.policies.base import Policy
from simulator.routing import Choice
from traces import RequestTrace


class GatingPolicy(Policy):
    """Drops, replaces or adds experts. What it changes is counted in the result (`quality`); what that
    does to the model's answers no trace can say.

    rewrite(rows)   before the run, for all tokens of a request: experts and weights ([tokens, layers,
                    top_k], -1 and 0 where a slot is left empty). Row (t, l) may be derived from the
                    request up to that row, and from what the trace holds of it, alone. Only if `rewrites`.
    choose(choice)  in every layer of a step, before the look-up: ids and weights ([tokens, top_k]) in
                    place of `choice.ids` and `choice.weights`, knowing what is resident. Only if
                    `chooses`; needs a platform of one worker.
    """

    rewrites = False
    chooses = False
    hooks = (("rewrite", "rewrites"), ("choose", "chooses"))

    def rewrite(self, rows: RequestTrace) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def choose(self, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError
