import numpy as np

from simulator.policies.prediction.base import PredictionPolicy


class BatchPaths(PredictionPolicy):
    """What the tokens of the running step will ask for, of the next `distance` layers of the pass, nearest layer first.

    Known before the pass begins: by a router outside the model (Read-ME, arXiv 2410.19123), or by a predictor of
    routing paths that is right about each expert with probability `recall` and else names another one, drawn from
    the layer's (ExpertFlow, arXiv 2410.17954: above 0.9 in domain). distance: null for all layers that remain. Of a
    layer, the experts of most tokens come first. The draws depend on the seed and the number of the step. The
    predictor's own time is not counted, and as it is asked once the pass has begun, the first layer's experts are
    not fetched ahead.
    """

    by_step = True
    clairvoyant = True  # of a routing that is known beforehand, or made from the truth and then spoilt

    def __init__(self, distance: int | None = None, recall: float = 1.0) -> None:
        if (distance is not None and distance < 1) or not 0.0 <= recall <= 1.0:
            raise ValueError(
                f"policy.prediction: distance is {distance} and recall {recall}; expected at least 1 or null, and from"
                " 0 to 1."
            )
        self._distance, self._recall = distance, recall

    def bind(self, context):
        self._layers, self._experts = context.layers, context.experts
        self._seed = int(context.rng.integers(2**63))
        self._step = 0
        self._paths: list[list[int]] = []  # of each layer, most tokens first

    def expect(self, layer, routing):
        if layer == 0:
            self._paths = self._predict(routing)
            self._step += 1
        last = self._layers if self._distance is None else min(self._layers, layer + 1 + self._distance)
        return [blob for ahead in range(layer + 1, last) for blob in self._paths[ahead]], None

    def _predict(self, routing):
        rng = np.random.default_rng([self._seed, self._step])
        paths = []
        for layer in range(self._layers):
            ids = routing.ids(layer)
            ids = ids[ids >= 0].astype(np.int64)
            if self._recall < 1 and self._experts > 1:
                lost = rng.random(len(ids)) >= self._recall
                ids = np.where(lost, (ids + rng.integers(1, self._experts, size=len(ids))) % self._experts, ids)
            counts = np.bincount(ids, minlength=self._experts)
            order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
            paths.append((order + layer * self._experts).tolist())
        return paths
