import numpy as np

from simulator.policies.gating.base import GatingPolicy


class HashedRouting(GatingPolicy):
    """A predictor's experts run in place of the router's: each is the router's with probability `hit`, else another.

    SiDA-MoE (MLSys 2024, arXiv 2310.18859): routers are not even loaded, and a wrong guess costs accuracy, not time.
    Its predictor reads token embeddings, which no trace holds; `hit` is its published hash hit rate (SST2, top-3: 0.99
    for Switch-base-8, 0.988 for -128). Wrong ones are drawn evenly from the other experts; the draws depend on the
    seed, the request and the position.
    """

    rewrites = True

    def __init__(self, hit: float = 0.988) -> None:
        if not 0 <= hit <= 1:
            raise ValueError(f"policy.gating.hit is {hit}; expected a number from 0 to 1.")
        self._hit = hit

    def bind(self, context):
        self._experts = context.experts
        self._seed = int(context.rng.integers(2**63))

    def rewrite(self, rows):
        rng = np.random.default_rng([self._seed, int(rows.id), int(rows.positions[0])])
        tokens, layers, top_k = rows.experts.shape
        # for each slot an expert that might take the router's place; the router's own come last
        chance = rng.random((tokens, layers, self._experts))
        np.put_along_axis(chance, np.maximum(rows.experts, 0).astype(np.int64), 2.0, axis=2)
        others = np.argsort(chance, axis=2, kind="stable")[:, :, :top_k]
        free = np.arange(top_k) < self._experts - top_k
        wrong = (rng.random(rows.experts.shape) >= self._hit) & (rows.experts >= 0) & free
        weights = rows.weights if rows.weights is not None else np.where(rows.experts >= 0, 1 / top_k, 0.0)
        return np.where(wrong, others, rows.experts), weights
