import numpy as np

from simulator.policies.prediction.base import PredictionPolicy, most_likely, require_distance
from simulator.policies.prediction.collection import Collection, Running, one_hot

_HISTORY = 4  # times the capacity: so many iterations of requests that are not served are offered to the store
_WHOLE = 1e9  # probabilities in whole billionths, so that rankings are the same everywhere


class ExpertMaps(PredictionPolicy):
    """Router probabilities of past iterations, that nearest to the running one; unsure ones name more (FineMoE).

    arXiv 2502.05370 and its repository (memory/expert_map.py): the layer `distance` layers ahead is
    taken from the map whose layers so far have the highest cosine with the iteration's; the first `distance` layers
    of an iteration from the map of the request whose prompt embedding is nearest. Experts are named in descending
    probability until they sum to 1 - cosine, and at least top-k (`least`). A full store replaces the most redundant.

    A trace without embeddings leaves the first layers unnamed: trajectory search only. A trace without
    probabilities gives sparse maps, of gate weights, or of equal shares where it has none of these either.

    capacity: maps kept; learns: iterations of served requests join once these have ended, beside those of
    requests that are not served; concurrent: requests that run at once.
    """

    uses = ("probabilities", "weights")

    def __init__(
        self,
        capacity: int = 1000,
        distance: int = 1,
        least: int | None = None,
        learns: bool = True,
        concurrent: int = 1,
    ) -> None:
        for name, value in (("capacity", capacity), ("least", 1 if least is None else least)):
            if value < 1:
                raise ValueError(f"policy.prediction.{name} is {value}; expected at least 1.")
        self._capacity, self._distance, self._least, self._learns = capacity, distance, least, learns
        self._running = Running(concurrent)

    def bind(self, context):
        self._layers, self._experts = context.layers, context.experts
        require_distance(self._distance, context.layers)
        self._fewest = min(self._least or context.top_k, context.experts)
        share = self._distance / context.layers
        self._store = Collection(self._capacity, context.layers, context.experts, share)
        tokens = sum(request.tokens for request in context.training())
        step = max(1, -(-tokens // (_HISTORY * self._capacity)))
        for request in context.training():
            self._store.add(self._maps(request)[::step], request.embedding)

    def _maps(self, rows):
        """[tokens, layers, experts]; rows that are not known are 0."""
        if rows.probabilities is not None:
            return np.nan_to_num(rows.probabilities)
        maps = one_hot(rows.experts, self._experts, rows.weights)
        return maps / np.maximum(maps.sum(axis=2, keepdims=True), 1e-12)

    def guess(self, rows, following):
        gathered, ended = self._running.enter(rows, list)
        if self._learns:
            for blocks in ended:
                for maps, embedding in blocks:
                    self._store.add(maps, embedding)
        maps = self._maps(rows)
        gathered.append((maps, rows.embedding))
        layers, ahead = self._layers, self._distance
        deep = layers if rows.embedding is not None and ahead > 1 else 1
        blobs = np.full((rows.tokens, layers, min(deep, ahead) * self._experts), -1, dtype=np.int64)
        scores = np.zeros(blobs.shape)
        if not self._store.count:
            return blobs, scores
        known = self._store.maps
        for layer, likeness in enumerate(self._store.likeness(maps)):
            if layer + ahead < layers:
                best = np.argmax(likeness, axis=1)
                found = self._named(known[best, layer + ahead], likeness[np.arange(rows.tokens), best])
                self._put(blobs[:, layer], scores[:, layer], layer + ahead, found)
        if rows.embedding is not None:  # for the next iteration's first layers, before any of them has run
            likeness = self._store.like_embedding(rows.embedding)[None]
            best = np.argmax(np.round(likeness, 6), axis=1)
            for layer in range(ahead):
                found = self._named(known[best, layer], likeness[0, best])
                part = slice(layer * self._experts, (layer + 1) * self._experts)
                self._put(blobs[:, -1, part], scores[:, -1, part], layer, found)
        return blobs, scores

    def _named(self, probabilities, confidence):
        """Experts in descending order [n, E], and their probabilities, 0 for those that are not named."""
        order = most_likely(np.rint(probabilities * _WHOLE), self._experts)
        sorted_ = np.take_along_axis(probabilities, order, axis=1).astype(np.float64)
        before = np.cumsum(sorted_, axis=1) - sorted_
        named = (before < 1 - np.clip(confidence, 0, 1)[:, None]) | (np.arange(self._experts) < self._fewest)
        return order, np.where(named & (sorted_ > 0), sorted_, 0.0)

    def _put(self, blobs, scores, layer, found):
        order, probabilities = found
        blobs[:, : self._experts] = np.where(probabilities > 0, order + layer * self._experts, -1)
        scores[:, : self._experts] = probabilities
