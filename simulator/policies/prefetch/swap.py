import numpy as np

from simulator.policies.importance import gate_values
from simulator.policies.prefetch.base import PrefetchPolicy


class Swap(PrefetchPolicy):
    """Every so many steps the most important experts that are not here are fetched, a few at a time; nothing waits.

    SwapMoE (ACL 2024, arXiv 2308.15030, section 3.2): importance as in `cache=importance`, which lets an expert in only
    for one that matters less. Of each layer at most `most` experts every `every` steps, and only while fewer than
    `max_queued` copies wait, so that the traffic stays bounded. Needs a prediction that names all experts of the next
    layer (`whole_layers`).
    """

    promotes = False
    cancels = False
    uses = ("weights", "probabilities")

    def __init__(self, every: int = 8, most: int = 1, max_queued: int = 4) -> None:
        for name, value in (("every", every), ("most", most), ("max_queued", max_queued)):
            if value < 1:
                raise ValueError(f"policy.prefetch.{name} is {value}; expected at least 1.")
        self._every, self._most, self._max_queued = every, most, max_queued

    def bind(self, context):
        self._importance = np.zeros((context.layers, context.experts))
        self._calls = np.zeros(context.layers, dtype=np.int64)
        self._seen = -1  # last layer of the step whose gate values have been added

    def choose(self, missing, work):
        first = self._seen + 1 if work.layer > self._seen else 0
        for layer in range(first, work.layer + 1):
            self._importance[layer] += gate_values(work.routing, layer, work.experts)
        self._seen = work.layer
        self._calls[work.layer] += 1
        free = min(self._most, self._max_queued - work.queued)
        if self._calls[work.layer] % self._every or free <= 0:
            return []
        target = work.layer_of(missing[0])
        value = self._importance[target]
        begin = target * work.experts
        here = [value[expert] for expert in range(work.experts) if work.here_or_coming(begin + expert)]
        wanted = [blob for blob in missing if here and value[blob - begin] > min(here)]
        return sorted(wanted, key=lambda blob: -value[blob - begin])[:free]
