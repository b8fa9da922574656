import numpy as np

from simulator.policies.prediction.base import PredictionPolicy, as_blobs, most_likely, require_width

_SCALE = 1_000_000  # probabilities in whole millionths: sums are exact, so rankings are the same everywhere


class TransitionPrediction(PredictionPolicy):
    """Layer-to-layer transition table, learned on the requests that are not served.

    P(j at layer l+1 | i at layer l) from counts with `smoothing` added; the scores of a token's
    experts are summed (as in the tables of MoE-Infinity and EdgeMoE, without their extensions).
    From the last layer it looks on to the first layer of the next token. width: null for top-k.
    """

    def __init__(self, width: int | None = None, smoothing: float = 0.0) -> None:
        require_width(width)
        self._asked_width = width
        self._smoothing = smoothing

    def bind(self, context):
        layers, experts = context.layers, context.experts
        self._experts = experts
        self._width = min(self._asked_width or context.top_k, experts)
        counts = np.zeros((layers, experts, experts))
        for request in context.training():
            for layer in range(layers):
                here = _chosen(request.experts[:, layer], experts)
                if layer + 1 < layers:
                    counts[layer] += here.T @ _chosen(request.experts[:, layer + 1], experts)
                elif request.tokens > 1:
                    counts[layer] += here[:-1].T @ _chosen(request.experts[1:, 0], experts)
        counts += self._smoothing
        totals = counts.sum(axis=2, keepdims=True)
        self._table = np.rint(_SCALE * np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0))

    def guess(self, rows, following):
        guesses = np.empty((rows.tokens, rows.experts.shape[1], self._width), dtype=np.int64)
        for layer in range(guesses.shape[1]):
            scores = _chosen(rows.experts[:, layer], self._experts) @ self._table[layer]
            guesses[:, layer] = most_likely(scores, self._width)
        return as_blobs(guesses, 1, self._experts)


def _chosen(ids, experts):
    """[tokens, top_k] expert ids (-1: none) -> [tokens, experts] of 0 and 1."""
    one_hot = np.zeros((len(ids), experts + 1))
    np.put_along_axis(one_hot, ids.astype(np.int64), 1.0, axis=1)
    return one_hot[:, :experts]
