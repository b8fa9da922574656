import numpy as np
from scipy.stats import hypergeom

from simulator.policies.slots.base import SlotsPolicy


class FewestBlockingLoads(SlotsPolicy):
    """Divides the budget so that the expected number of loads that block is least, by dynamic programming.

    AdapMoE (arXiv 2408.10284, section 4.3 and repository). With s of a layer's E experts cached, m of the k that a
    token asks for are missing with hypergeometric probability; a right prediction hides one of them, so
    m - accuracy * min(m, 1) block. For k = 2 these are the repository's f2, f3, f4. A share `single` of the tokens asks
    for one expert only.
    accuracy, single: one value for each layer (interpolated over depth for another number), or one for all.
    staging: buffers for what is fetched ahead, see `staged`.
    """

    def __init__(self, accuracy: list[float], single: list[float], staging: int = 0) -> None:
        for name, values in (("accuracy", accuracy), ("single", single)):
            if not values or min(values) < 0 or max(values) > 1:
                raise ValueError(f"policy.slots.{name} is {values}; expected numbers from 0 to 1.")
        self._accuracy, self._single = accuracy, single
        self.staging_experts = staging

    def bind(self, context):
        self._experts = context.experts

    def budgets(self, budget_bytes, layer_expert_bytes, top_k):
        layers, largest = len(layer_expert_bytes), max(layer_expert_bytes)
        least = min(top_k, self._experts)
        slots = min(budget_bytes // largest, layers * self._experts)
        loads = self.blocking_loads(layers, top_k)
        loads[:, :least] = np.inf  # a token's experts have room in every layer
        best = np.full(slots + 1, np.inf)
        best[0] = 0.0
        choices = []
        for row in loads:
            sums = np.full((slots + 1, self._experts + 1), np.inf)
            for s in range(min(self._experts, slots) + 1):
                sums[s:, s] = best[: slots + 1 - s] + row[s]
            choices.append(sums.argmin(axis=1))
            best = sums.min(axis=1)
        left = int(np.argmin(best)) if np.isfinite(best).any() else slots
        taken = []
        for choice in reversed(choices):
            taken.append(int(choice[left]))
            left -= taken[-1]
        if not np.isfinite(best).any():
            taken = [least] * layers  # too little for any: the run says so
        return [slots * largest for slots in reversed(taken)]

    def blocking_loads(self, layers: int, top_k: int) -> np.ndarray:
        """Expected loads that block, float64 [layers, cached experts 0 .. E]."""
        accuracy, single = (_of_depth(values, layers) for values in (self._accuracy, self._single))

        def expected(asked: int) -> np.ndarray:
            cached = np.arange(self._experts + 1)
            missing = np.arange(asked + 1)
            chance = hypergeom.pmf(missing[:, None], self._experts, self._experts - cached[None, :], asked)
            return (missing - np.minimum(missing, 1) * accuracy[:, None]) @ np.nan_to_num(chance)

        alone = (1 - np.arange(self._experts + 1) / self._experts) * (1 - accuracy[:, None])
        return single[:, None] * alone + (1 - single[:, None]) * expected(top_k)


def _of_depth(values, layers):
    return np.interp(np.linspace(0, 1, layers), np.linspace(0, 1, len(values)), values)
