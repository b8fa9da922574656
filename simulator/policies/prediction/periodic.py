import numpy as np

from simulator.policies.prediction.base import PredictionPolicy


class PeriodicForecast(PredictionPolicy):
    """Every `period` prompts the experts of all layers are forecast anew, and named until the next forecast.

    eMoE (arXiv 2503.06823): its predictor takes what the previous prompts activated in each layer; here an expert's
    score is its share of the layer's selections since the last forecast, times the prompts that came meanwhile, and
    its share in the training requests, times `prior` prompts (assumed). Of each layer the best `share` of its
    experts are named, those of the next layer after each. Layers of which `insensitive` of the selections of a task
    in the training requests fall on their most popular experts need no prediction for that task: where all tasks
    since the last forecast are such, the popular ones are named (the task-layer table of eMoE, whose 85 % is of the
    model's accuracy, which no trace tells; here of the selections covered). The predictor's own time is not
    counted.
    """

    by_step = True

    def __init__(self, period: int = 40, share: float = 0.5, prior: float = 1.0, insensitive: float = 0.85) -> None:
        if period < 1 or not 0 < share <= 1 or prior < 0 or not 0 <= insensitive <= 1:
            raise ValueError(
                f"policy.prediction: period is {period}, share {share}, prior {prior} and insensitive {insensitive};"
                " expected at least 1, above 0 up to 1, at least 0, and from 0 to 1."
            )
        self._period, self._share, self._prior, self._insensitive = period, share, prior, insensitive

    def bind(self, context):
        layers, experts = context.layers, context.experts
        self._width = max(1, round(self._share * experts))
        self._task = context.tasks
        used: dict[str | None, np.ndarray] = {}
        for request, task in context.labelled():
            found = used.setdefault(task, np.zeros((layers, experts)))
            for layer in range(layers):
                ids = request.experts[:, layer]
                found[layer] += np.bincount(ids[ids >= 0], minlength=experts)
        self._popular = _shares(sum(used.values(), np.zeros((layers, experts))))
        best = self._best(self._popular)
        self.skipped = {  # task -> layers that need no prediction, bool [layers]
            task: np.take_along_axis(_shares(found), best, axis=1).sum(axis=1) >= self._insensitive
            for task, found in used.items()
        }
        self._activity = np.zeros((layers, experts))  # selections since the last forecast
        self._since: list[int] = []  # requests that came since
        self._seen: set[int] = set()
        self._named: list[list[int]] = []  # for each layer
        self.forecasts = 0

    def expect(self, layer, routing):
        if layer == 0:
            new = [request for request in dict.fromkeys(routing.requests) if request not in self._seen]
            if not self._named or (new and self._since and len(self._since) + len(new) > self._period):
                self._forecast()
            self._seen.update(new)
            self._since += new
        ids = routing.ids(layer)
        self._activity[layer] += np.bincount(ids[ids >= 0], minlength=self._activity.shape[1])
        return self._named[(layer + 1) % len(self._named)], None

    def _forecast(self):
        scores = len(self._since) * _shares(self._activity) + self._prior * self._popular
        tasks = {self._task.get(request) for request in self._since}
        never = np.zeros(len(scores), dtype=bool)
        skip = np.all([self.skipped.get(task, never) for task in tasks], axis=0) if tasks else never
        best = self._best(np.where(skip[:, None], self._popular, scores))
        experts = scores.shape[1]
        self._named = [[layer * experts + expert for expert in row] for layer, row in enumerate(best.tolist())]
        self._activity[:] = 0
        self._since = []
        self.forecasts += 1

    def _best(self, scores):
        return np.argsort(-scores, axis=1, kind="stable")[:, : self._width]


def _shares(counts):
    """Counts [layers, experts] as shares of each layer's sum."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
