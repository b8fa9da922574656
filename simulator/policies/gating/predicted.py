import numpy as np

from simulator.policies.gating.base import GatingPolicy
from simulator.routing import equal_weights

PROMPT = 0


class PredictedRouting(GatingPolicy):
    """In decode, from layer `first_layer` on, the previous layer's guess replaces the routing (DAOP).

    DATE 2025, arXiv 2501.10375, model/modeling.py of its repository: a layer's gate, applied to the hidden state before
    the layer above it ran, decides. Of a token's guessed experts at most one is left to the host CPU, the likeliest;
    the others give way to the likeliest experts that are on the worker, if there are any. A trace holds no weights
    of guesses: the n-th guess gets the n-th largest weight of the true routing. Likeliest: by the router's
    probabilities, or popularity where the trace has none.
    """

    rewrites = True
    chooses = True
    uses = ("probabilities", "weights")

    def __init__(self, first_layer: int = 5) -> None:
        if first_layer < 1:
            raise ValueError(f"policy.gating.first_layer is {first_layer}; expected at least 1.")
        self._first_layer = first_layer

    def bind(self, context):
        if context.guess_distances < 1:
            raise ValueError(
                "policy/gating=predicted puts guesses in place of the routing, but the trace holds none; `moesim show"
                " TRACE` tells what a trace holds."
            )
        self._popularity = context.popularity().reshape(context.layers, context.experts).astype(float)

    def rewrite(self, rows):
        experts = rows.experts.astype(np.int64)
        weights = equal_weights(experts) if rows.weights is None else np.nan_to_num(rows.weights.astype(np.float64))
        width = experts.shape[2]
        guessed = np.full_like(experts, -1)
        if rows.guesses.shape[3] >= width:
            guessed[:, 1:] = rows.guesses[:, :-1, 0, :width]
        use = (guessed >= 0).all(axis=2) & (np.asarray(rows.phases) != PROMPT)[:, None]
        use[:, : self._first_layer] = False
        ranked = np.sort(weights, axis=2)[:, :, ::-1]
        return np.where(use[..., None], guessed, experts), np.where(use[..., None], ranked, weights)

    def choose(self, choice):
        if choice.prefill or choice.layer < self._first_layer:
            return choice.ids, choice.weights
        here = choice.resident()
        likely = self._popularity[choice.layer] if choice.probabilities is None else choice.probabilities
        likely = np.broadcast_to(likely, (len(choice.ids), len(here)))
        ids = choice.ids.copy()
        for token, row in enumerate(ids):
            away = [
                slot
                for slot in np.argsort(-choice.weights[token], kind="stable")
                if row[slot] >= 0 and not here[row[slot]]
            ]
            free = here.copy()
            free[row[row >= 0]] = False
            others = [e for e in np.argsort(-likely[token], kind="stable").tolist() if free[e]]
            for slot, expert in zip(away[1:], others, strict=False):
                row[slot] = expert
        return ids, choice.weights
