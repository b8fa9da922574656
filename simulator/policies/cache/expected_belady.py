from simulator.policies.cache.forecast import ForecastCache


class ExpectedBelady(ForecastCache):
    """Drops the expert whose next use is expected farthest ahead, by the prediction's forecast (SeqMoE).

    The probabilistic Belady of arXiv 2609.12978. A score is taken as uses per token: the next use of an
    expert is expected when its layer runs next, 1 / score - 1 tokens later; of one that is not named, after `beyond`
    tokens; of a layer of which nothing was said, last of all. Makes no room for a fetch ahead by dropping
    one that is expected before it. A forecast of the next token alone gives eviction in the order of a
    predicted sequence (DyNN-Offload, HPCA 2024).
    """

    def __init__(self, beyond: float = 9.0) -> None:
        super().__init__()
        if not beyond >= 1:
            raise ValueError(f"policy.cache.beyond is {beyond}; expected at least 1 token.")
        self._beyond = beyond

    def worth(self, blob, view):
        score, layer = self.score(blob, view), view.layer_of(blob)
        if score is None:
            return -float("inf")
        tokens = min(1 / score, self._beyond) if score > 0 else self._beyond
        return -(self._heard[layer] + (tokens - 1) * view.layers)

    def victims(self, need_bytes, incoming, view):
        chosen = super().victims(need_bytes, incoming, view)
        if not view.prefetching:
            return chosen
        soonest = max(self.worth(blob, view) for blob in incoming)
        return [blob for blob in chosen if self.worth(blob, view) < soonest]
