from simulator.policies.cache.forecast import ForecastCache


class ActivationAware(ForecastCache):
    """Drops the expert least expected by the prediction, and least wanted for lying in a late layer (MoE-Infinity).

    The priority of arXiv 2401.14361, algorithm 2: (p + epsilon) x (1 - layer / layers), p the prediction's share of a
    layer's tokens that go to the expert. Early layers stay, as there is the least time to fetch them.
    """

    def __init__(self, epsilon: float = 1e-6) -> None:
        super().__init__()
        if not epsilon > 0:
            raise ValueError(f"policy.cache.epsilon is {epsilon}; expected a number above 0.")
        self._epsilon = epsilon

    def worth(self, blob, view):
        expected = self.score(blob, view) or 0.0
        return (expected + self._epsilon) * (1 - view.layer_of(blob) / view.layers)
