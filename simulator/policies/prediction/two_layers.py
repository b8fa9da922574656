import numpy as np
from scipy import sparse

from simulator.policies.prediction.base import PredictionPolicy, as_blobs, most_likely, require_width

_WHOLE = 1e6  # scores in whole millionths, so that rankings are the same everywhere


class TwoLayerKeys(PredictionPolicy):
    """The next layer's experts from those of the last two layers, by a table learned on requests that are not served.

    The preloading of EdgeMoE (arXiv 2308.14352, section 3.3): P(j at layer l+1 | h at l-1, i at l). With several
    experts per token the scores of all pairs (h, i) are summed. A pair that the training requests lack, and the first
    layer, fall back on i alone; from the last layer it looks on to the first of the next token. width: null for top-k.
    """

    def __init__(self, width: int | None = 3) -> None:
        require_width(width)
        self._asked_width = width

    def bind(self, context):
        self._experts, layers = context.experts, context.layers
        self._width = min(self._asked_width or context.top_k, self._experts)
        sums: list = [[0, 0] for _ in range(layers)]
        for request in context.training():
            for layer in range(layers):
                wrap = layer + 1 == layers
                ids = request.experts[:-1] if wrap else request.experts
                after = self._hot(request.experts[1:, 0] if wrap else request.experts[:, layer + 1])
                for kind, keys in enumerate(self._keys(ids, layer)):
                    sums[layer][kind] = sums[layer][kind] + keys.T @ after
        self._tables = [[_shares(counts) for counts in row] for row in sums]

    def _hot(self, ids):
        """[tokens, k] expert ids (-1: none) -> sparse [tokens, experts] of 0 and 1."""
        return _marks(ids, self._experts)

    def _keys(self, ids, layer):
        """Which experts of the layer, and which pairs with the layer before, each token has: two sparse matrices."""
        now = ids[:, layer].astype(np.int64)
        before = ids[:, layer - 1].astype(np.int64) if layer else np.full_like(now, -1)
        pairs = np.where((before >= 0)[:, :, None] & (now >= 0)[:, None, :], before[:, :, None] * self._experts, -1)
        pairs = np.where(pairs >= 0, pairs + now[:, None, :], -1).reshape(len(now), -1)
        return self._hot(now), _marks(pairs, self._experts**2)

    def guess(self, rows, following):
        guesses = np.empty((rows.tokens, rows.experts.shape[1], self._width), dtype=np.int64)
        for layer, tables in enumerate(self._tables):
            if isinstance(tables[0], int):  # nothing to learn from
                guesses[:, layer] = np.arange(self._width)
                continue
            single, pairs = (
                (keys @ table).toarray() for keys, table in zip(self._keys(rows.experts, layer), tables, strict=True)
            )
            known = pairs.any(axis=1, keepdims=True)
            guesses[:, layer] = most_likely(np.rint(np.where(known, pairs, single) * _WHOLE), self._width)
        return as_blobs(guesses, 1, self._experts)


def _marks(ids, count):
    rows, places = np.nonzero(ids >= 0)
    return sparse.csr_array((np.ones(len(rows)), (rows, ids[rows, places])), shape=(len(ids), count))


def _shares(counts):
    """Counts [keys, experts] -> shares of each row; 0 if there are none at all."""
    if isinstance(counts, int):
        return 0
    total = np.asarray(counts.sum(axis=1)).ravel()
    return sparse.csr_array(sparse.diags_array(1 / np.maximum(total, 1)) @ counts)
