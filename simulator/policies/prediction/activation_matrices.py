import numpy as np

from simulator.policies.prediction.base import PredictionPolicy, most_likely, require_distance, require_width
from simulator.policies.prediction.collection import Collection, Running, one_hot

_WHOLE = 1e9  # priorities in whole billionths, so that rankings are the same everywhere


class ActivationMatrices(PredictionPolicy):
    """Expert activation matrices of past requests, those nearest to the running iteration's (MoE-Infinity).

    arXiv 2401.14361 and its repository (memory/expert_tracer.py, expert_predictor.py): an EAM counts the tokens of a
    request that went to each expert of each layer, prefill and decode apart. After a layer, the EAMs nearest by
    cosine to what the iteration routed so far are added up, their rows divided by their sums (the scores), and the
    layers to come ranked by score x (1 - distance / (layers + 1)). In a prompt the iteration is its tokens so far.

    capacity: EAMs kept, per phase; nearest: how many are added up; distance: layers ahead, null for all that remain;
    width: experts named, the highest priorities; null: top-k; learns: requests join the collection once they have
    ended, beside those that are not served; concurrent: requests that run at once.
    """

    def __init__(
        self,
        capacity: int = 120,
        nearest: int = 1,
        distance: int | None = 1,
        width: int | None = None,
        learns: bool = True,
        concurrent: int = 1,
    ) -> None:
        for name, value in (("capacity", capacity), ("nearest", nearest)):
            if value < 1:
                raise ValueError(f"policy.prediction.{name} is {value}; expected at least 1.")
        require_width(width)
        self._capacity, self._nearest, self._distance, self._width = capacity, nearest, distance, width
        self._learns = learns
        self._running = Running(concurrent)

    def bind(self, context):
        self._layers, self._experts = context.layers, context.experts
        require_distance(self._distance or context.layers, context.layers)
        self._named = self._width or context.top_k
        self._collections = [Collection(self._capacity, context.layers, context.experts) for _ in range(2)]
        for request in context.training():
            self._join(self._count(request, self._matrices()))

    def _matrices(self):
        return np.zeros((2, self._layers, self._experts), dtype=np.float32)

    def _count(self, rows, matrices):
        prompt = rows.phases == 0
        hot = one_hot(rows.experts, self._experts)
        matrices[0] += hot[prompt].sum(axis=0)
        matrices[1] += hot[~prompt].sum(axis=0)
        return matrices

    def _join(self, matrices):
        for collection, matrix in zip(self._collections, matrices, strict=True):
            if matrix.any():
                collection.add([matrix])

    def guess(self, rows, following):
        matrices, ended = self._running.enter(rows, self._matrices)
        if self._learns:
            for other in ended:
                self._join(other)
        prompt = bool(rows.phases[0] == 0)
        hot = one_hot(rows.experts, self._experts)
        asked = np.cumsum(hot, axis=0) if prompt else hot
        blobs = np.full((rows.tokens, self._layers, self._named), -1, dtype=np.int64)
        scores = np.zeros(blobs.shape)
        collection = self._collections[0 if prompt else 1]
        if collection.count:
            for layer, likeness in enumerate(collection.likeness(asked)):
                self._rank(layer, likeness, collection.maps, blobs[:, layer], scores[:, layer])
        self._count(rows, matrices)
        return blobs, scores

    def _rank(self, layer, likeness, maps, blobs, scores):
        """Fill blobs and scores [tokens, named] of one layer."""
        end = min(self._layers, layer + 1 + (self._distance or self._layers))
        ahead = np.arange(1, end - layer)
        if not len(ahead):
            return
        count = likeness.shape[1]
        near = np.zeros_like(likeness)
        closest = most_likely(np.rint(likeness * 1e6), min(self._nearest, count))
        np.put_along_axis(near, closest, 1.0, axis=1)
        summed = (near @ maps[:, layer + 1 : end].reshape(count, -1)).reshape(len(near), len(ahead), self._experts)
        expected = summed / np.maximum(summed.sum(axis=2, keepdims=True), 1.0)
        priority = expected * (1 - ahead / (self._layers + 1))[None, :, None]
        keys = np.rint(priority.reshape(len(near), -1) * _WHOLE)
        best = most_likely(keys, min(self._named, keys.shape[1]))
        there = np.take_along_axis(keys, best, axis=1) > 0
        blobs[:, : best.shape[1]] = np.where(there, best + (layer + 1) * self._experts, -1)
        scores[:, : best.shape[1]] = np.take_along_axis(expected.reshape(len(near), -1), best, axis=1)
