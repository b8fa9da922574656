from simulator.policies.cache.forecast import ForecastCache


class ProbabilityFrequency(ForecastCache):
    """Drops the expert of least expected probability x uses so far (FineMoE, arXiv 2502.05370).

    Its eviction priority is 1 / (p x frequency), the highest first. Uses are counted since the start of the run;
    epsilon: the probability of experts that the prediction does not name.
    """

    def __init__(self, epsilon: float = 1e-6) -> None:
        super().__init__()
        if not epsilon > 0:
            raise ValueError(f"policy.cache.epsilon is {epsilon}; expected a number above 0.")
        self._epsilon = epsilon
        self._uses: dict[int, int] = {}

    def on_layer(self, blobs, loads, view):
        super().on_layer(blobs, loads, view)
        for blob in blobs:
            self._uses[blob] = self._uses.get(blob, 0) + 1

    def on_insert(self, blobs, view):
        super().on_layer(blobs, blobs, view)

    def worth(self, blob, view):
        return max(self.score(blob, view) or 0.0, self._epsilon) * max(self._uses.get(blob, 0), 1)
