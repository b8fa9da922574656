import numpy as np

from simulator.policies.prediction.base import (
    PredictionPolicy,
    as_blobs,
    most_likely,
    next_layers,
    require_distance,
    require_width,
)
from simulator.policies.prediction.collection import one_hot

_WHOLE = 1e6  # scores in whole millionths, so that rankings are the same everywhere


class LinearPrediction(PredictionPolicy):
    """A linear model per layer, fitted to the requests that are not served, names experts `distance` layers ahead.

    Stands where ProMoE (arXiv 2410.22134) has a two-layer perceptron on the hidden state, which no trace holds: its
    inputs are the gate weights of the experts of this layer and of `layers_back` - 1 before it (least squares with
    `ridge` added to the diagonal; scores cut to [0, 1]). From the last layers it looks on to the next token, and
    then sees this token's experts in the layer that is guessed too. distance null: the same layer of the next
    token, so that a whole iteration is named before it begins. width: null for top-k.
    """

    def __init__(self, distance: int | None = 1, width: int | None = None, layers_back: int = 4, ridge: float = 1.0):
        require_width(width)
        if layers_back < 1:
            raise ValueError(f"policy.prediction.layers_back is {layers_back}; expected at least 1.")
        if not ridge > 0:
            raise ValueError(f"policy.prediction.ridge is {ridge}; expected a number above 0.")
        self._asked_distance, self._asked_width, self._back, self._ridge = distance, width, layers_back, ridge

    def bind(self, context):
        layers, self._experts = context.layers, context.experts
        self._distance = layers if self._asked_distance is None else self._asked_distance
        require_distance(self._distance, layers)
        self._width = min(self._asked_width or context.top_k, self._experts)
        size = (self._back + 1) * self._experts + 1
        squares, products = np.zeros((layers, size, size)), np.zeros((layers, size, self._experts))
        for request in context.training():
            after = np.concatenate([request.experts[1:], np.full_like(request.experts[:1], -1)])
            truth = one_hot(next_layers(request.experts, after, self._distance), self._experts)
            for layer, inputs in enumerate(self._inputs(request)):
                known = truth[:, layer].any(axis=1)
                squares[layer] += inputs[known].T @ inputs[known]
                products[layer] += inputs[known].T @ truth[known, layer]
        self._models = np.linalg.solve(squares + self._ridge * np.eye(size), products)

    def _inputs(self, rows):
        """Yields for each layer [tokens, inputs]."""
        hot = one_hot(rows.experts, self._experts, rows.weights).astype(np.float64)
        layers, ones = hot.shape[1], np.ones((rows.tokens, 1))
        for layer in range(layers):
            parts = [hot[:, layer - back] if layer >= back else np.zeros_like(hot[:, 0]) for back in range(self._back)]
            again = layer + self._distance - layers  # the layer that is guessed, if it is the next token's
            yield np.concatenate([*parts, hot[:, again] if again >= 0 else np.zeros_like(hot[:, 0]), ones], axis=1)

    def guess(self, rows, following):
        guesses = np.empty((rows.tokens, rows.experts.shape[1], self._width), dtype=np.int64)
        scores = np.empty(guesses.shape)
        for layer, inputs in enumerate(self._inputs(rows)):
            found = np.clip(inputs @ self._models[layer], 0.0, 1.0)
            best = most_likely(np.rint(found * _WHOLE), self._width)
            guesses[:, layer], scores[:, layer] = best, np.take_along_axis(found, best, axis=1)
        return as_blobs(guesses, self._distance, self._experts), scores
