import numpy as np

from simulator.policies.prediction.base import PredictionPolicy, as_blobs, require_distance, require_width


class LookaheadPrediction(PredictionPolicy):
    """The guesses recorded in the trace: a later layer's gate applied to this layer's hidden state.

    distance: how many layers ahead; width: experts of each guess that are used, null for all.
    """

    def __init__(self, distance: int = 1, width: int | None = None) -> None:
        require_width(width)
        self._distance = distance
        self._width = width

    def bind(self, context):
        self._experts = context.experts
        require_distance(self._distance, context.layers)
        if context.guess_distances < self._distance:
            raise ValueError(
                f"policy/prediction=lookahead asks for guesses {self._distance} layers ahead, but the trace"
                f" holds {context.guess_distances or 'none'}; use policy/prediction=recall for a stated"
                " recall."
            )

    def guess(self, rows, following):
        parts = []
        for ahead in range(self._distance):
            guessed = rows.guesses[:, :, ahead, : self._width].astype(np.int64)
            parts.append(as_blobs(guessed, ahead + 1, self._experts))
        return np.concatenate(parts, axis=2)
