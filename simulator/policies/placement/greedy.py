import numpy as np

from simulator.policies.placement.popular import PopularFirst


class GreedyBalance(PopularFirst):
    """The busiest experts first, each goes to the least loaded worker with a free slot (MoE-Deploy).

    Loads of a layer are means over the requests not served here (arXiv 2303.06182, load balancing); every worker gets
    as many experts as another, give or take one. All experts start resident, the most popular first.
    """

    similarity = 0.0  # weight of the correlation with the experts that a worker has

    def bind(self, context):
        super().bind(context)
        self._shape = context.layers, context.experts
        self._series = _loads(context)  # [requests, layers, experts]
        self._owners: dict[int, np.ndarray] = {}

    def owner(self, layer, expert, workers):
        if workers not in self._owners:
            self._owners[workers] = np.array([self._assigned(layer, workers) for layer in range(self._shape[0])])
        return int(self._owners[workers][layer, expert])

    def _assigned(self, layer: int, workers: int) -> np.ndarray:
        """Worker of each expert of a layer."""
        experts = self._shape[1]
        series = self._series[:, layer]
        mean = series.mean(axis=0)
        alike = self.similarity * _correlation(series) if self.similarity else np.zeros((experts, experts))
        slots = np.full(workers, -(-experts // workers))
        owner, score = np.full(experts, -1), np.zeros((workers, experts))
        for expert in np.argsort(-mean, kind="stable"):
            open_ = np.where(slots > 0, score[:, expert], np.inf)
            chosen = int(np.argmin(open_))
            owner[expert] = chosen
            slots[chosen] -= 1
            score[chosen] += mean[expert] + alike[expert] * mean[expert]
        return owner


class AntiCorrelation(GreedyBalance):
    """As greedy, by load + 0.5 x |correlation| with the experts that a worker has, so that those used together part.

    MoE-Deploy (arXiv 2303.06182). Both terms are in units of load: an expert already there counts once more with
    `similarity` x |correlation| x its load. Correlations are those over the requests not served here.
    """

    def __init__(self, similarity: float = 0.5) -> None:
        if similarity < 0:
            raise ValueError(f"policy.placement.similarity is {similarity}; expected at least 0.")
        self.similarity = similarity


def _loads(context) -> np.ndarray:
    """Share of a layer's selections that each expert has in each training request, [requests, layers, experts]."""
    shape = context.layers, context.experts
    offsets = np.arange(shape[0])[None, :, None] * shape[1]
    rows = []
    for request in context.training():
        ids = (request.experts + offsets)[request.experts >= 0]
        counts = np.bincount(ids, minlength=shape[0] * shape[1]).reshape(shape)
        rows.append(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    return np.array(rows) if rows else np.full((1, *shape), 1 / shape[1])


def _correlation(series: np.ndarray) -> np.ndarray:
    """Absolute correlation over requests, [experts, experts]; 0 for experts whose load never changes."""
    apart = series - series.mean(axis=0)
    scale = np.sqrt((apart**2).sum(axis=0))
    unit = apart / np.where(scale > 0, scale, 1.0)
    return np.abs(unit.T @ unit)
