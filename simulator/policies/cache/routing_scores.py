import numpy as np

from simulator.policies.cache.base import CachePolicy


class RoutingScores(CachePolicy):
    """Drops the expert of the lowest running average of its router's scores, chosen or not (MRS of HybriMoE).

    arXiv 2504.05897, section 4.3 and repository: S = alpha x TopP(s) + (1 - alpha) x S at each run of a layer, where
    TopP keeps the `top` highest scores (null: twice top-k) and is 0 for the others. Scores are the router's
    probabilities, averaged over tokens; gate weights where the trace has none.
    """

    uses = ("probabilities", "weights")

    def __init__(self, alpha: float = 0.5, top: int | None = None) -> None:
        if not 0 < alpha <= 1 or (top is not None and top < 1):
            raise ValueError(f"policy.cache.alpha is {alpha} and top {top}; expected above 0 to 1, and at least 1.")
        self._alpha, self._asked_top = alpha, top
        self._here: dict[int, None] = {}

    def bind(self, context):
        self._top = min(self._asked_top or 2 * context.top_k, context.experts)
        self._scores = np.zeros((context.layers, context.experts))

    def on_layer(self, blobs, loads, view):
        self._here.update(dict.fromkeys(loads))
        scores = self.scores_of(view)
        least = np.sort(scores)[::-1][self._top - 1]
        own = self._scores[view.layer]
        own *= 1 - self._alpha
        own += self._alpha * np.where(scores >= least, scores, 0.0)

    def scores_of(self, view):
        """The router's scores in the layer that runs, mean over its tokens, [experts]."""
        scores = np.zeros(self._scores.shape[1])
        if view.routing is None:  # several workers
            return scores
        probabilities = view.routing.probabilities(view.layer)
        if probabilities is not None:
            return np.nan_to_num(probabilities).mean(axis=0)
        for expert, share in view.routing.shares(view.layer).items():
            scores[expert] = share / max(1, len(view.routing.ids(view.layer)))
        return scores

    def on_insert(self, blobs, view):
        self._here.update(dict.fromkeys(blobs))

    def on_evict(self, blob):
        self._here.pop(blob, None)

    def victims(self, need_bytes, incoming, view):
        experts = self._scores.shape[1]
        scores = self._scores.ravel()
        bank = scores.size  # blobs of lower precision follow those of the first
        return view.take_until(need_bytes, sorted(self._here, key=lambda blob: (scores[blob % bank], blob // experts)))
