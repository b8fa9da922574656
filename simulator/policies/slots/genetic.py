import numpy as np

from simulator.policies.slots.base import SlotsPolicy


class GeneticSlots(SlotsPolicy):
    """How many experts each layer keeps, by a genetic search for what loses least under a masked gate.

    The planner of SwapMoE (ACL 2024, arXiv 2308.15030, section 3.3). Its profiled accuracy, which no trace tells, is
    replaced by the share of the training requests' selections that go to each layer's most popular experts, summed over
    layers; the budget bounds the memory, and time does not depend on the counts. Half of the population survives;
    children mix two parents layer by layer, and with probability `mutation` one slot moves to another layer.
    """

    def __init__(self, population: int = 32, generations: int = 100, mutation: float = 0.5) -> None:
        if population < 4 or generations < 1 or not 0 <= mutation <= 1:
            raise ValueError(
                f"policy.slots: population is {population}, generations {generations} and mutation {mutation}; expected"
                " at least 4, at least 1, and a number from 0 to 1."
            )
        self._population, self._generations, self._mutation = population, generations, mutation

    def bind(self, context):
        self._rng = context.rng
        counts = np.sort(context.popularity().reshape(context.layers, -1), axis=1)[:, ::-1].astype(np.float64)
        shares = (counts + 1e-9) / (counts + 1e-9).sum(axis=1, keepdims=True)
        self.covered = np.concatenate([np.zeros((context.layers, 1)), shares.cumsum(axis=1)], axis=1)

    def budgets(self, budget_bytes, layer_expert_bytes, top_k):
        layers, largest = len(layer_expert_bytes), max(layer_expert_bytes)
        self._least, self._slots = top_k, budget_bytes // largest
        if self._slots < layers * top_k:
            return [top_k * largest] * layers  # too little for any: the run says so
        rng = self._rng
        people = [
            self._mended(rng.integers(top_k, self.covered.shape[1], size=layers)) for _ in range(self._population)
        ]
        people[0] = self._mended(np.full(layers, self._slots // layers))
        for _ in range(self._generations):
            people = sorted(people, key=self.fitness, reverse=True)[: self._population // 2]
            for _ in range(self._population - len(people)):
                one, other = (people[int(place)] for place in rng.integers(len(people), size=2))
                child = np.where(rng.random(layers) < 0.5, one, other)
                if rng.random() < self._mutation:
                    child[rng.integers(layers)] -= 1
                people.append(self._mended(child))
        return [int(count) * largest for count in max(people, key=self.fitness)]

    def fitness(self, counts):
        """Share of selections that stay, summed over layers; counts: experts kept, [layers]."""
        return float(self.covered[np.arange(len(counts)), counts].sum())

    def _mended(self, counts):
        """Counts within bounds that use up the slots."""
        most = self.covered.shape[1] - 1
        counts = np.clip(counts, self._least, most)
        while (left := min(self._slots, most * len(counts)) - counts.sum()) != 0:
            step = 1 if left > 0 else -1
            able = np.flatnonzero(counts < most if step > 0 else counts > self._least)
            counts[self._rng.choice(able)] += step
        return counts
