import numpy as np

from simulator.policies.gating.base import GatingPolicy


class ResidentOnly(GatingPolicy):
    """Tokens go to experts that are resident only: the top-k of the router's probabilities over these.

    The masked gate of SwapMoE (ACL 2024, arXiv 2308.15030, section 3.1): nothing is ever waited for, at the cost of
    answers. Where a trace has no probabilities, chosen experts that are resident stay, and those that are not are
    replaced by the resident ones most popular in the training requests. A layer with fewer than top-k is left as it is.
    coming: whether what is on its way counts as resident too, and is then waited for, as in eMoE (arXiv 2503.06823),
    whose forecast experts are loaded before they are used.
    """

    chooses = True
    uses = ("weights", "probabilities")

    def __init__(self, coming: bool = False) -> None:
        self._coming = coming

    def bind(self, context):
        popularity = context.popularity().reshape(context.layers, context.experts)
        self._rank = popularity / np.maximum(popularity.sum(axis=1, keepdims=True), 1) * 1e-6

    def choose(self, choice):
        here, ids = choice.resident(coming=self._coming), choice.ids
        if here.sum() < ids.shape[1]:
            return ids, choice.weights
        scores = choice.probabilities
        if scores is None or np.isnan(scores).any():
            scores = np.broadcast_to(self._rank[choice.layer], (len(ids), len(here))).copy()
            rows, places = np.nonzero(ids >= 0)
            scores[rows, ids[rows, places]] += choice.weights[rows, places]
        order = np.argsort(-np.where(here, scores, -1.0), axis=1, kind="stable")[:, : ids.shape[1]]
        value = np.maximum(np.take_along_axis(scores, order, axis=1), 1e-30)
        there = ids >= 0
        value = np.where(there, value, 0.0)
        total = np.where(there, choice.weights, 0.0).sum(axis=1, keepdims=True)
        weights = value / np.maximum(value.sum(axis=1, keepdims=True), 1e-30) * total
        return np.where(there, order, -1), weights
