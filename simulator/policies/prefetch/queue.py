import heapq

from simulator.policies.prefetch.base import PrefetchPolicy

PRIORITY = {  # of an expert with a score, so many layers ahead
    "linear": lambda score, ahead, layers: score * (1 - ahead / (layers + 1)),
    "inverse": lambda score, ahead, layers: score / ahead,
    "soonest": lambda score, ahead, layers: -(ahead + (1 / max(score, 1e-9) - 1) * layers),
}


class PriorityQueue(PrefetchPolicy):
    """One queue of all that is expected and missing, ranked anew in every layer; the lane gets the first few.

    An expert waits in the queue until its layer has run, or is named anew. order: linear, score x (1 - ahead /
    (layers + 1)) (MoE-Infinity, arXiv 2401.14361; memory/expert_predictor.py of its repository); inverse, score / ahead
    (FineMoE, arXiv 2502.05370); soonest, by the expected next use,
    a score taken as uses per token (a predicted sequence: SeqMoE, arXiv 2609.12978; DyNN-Offload, HPCA 2024).
    max_queued: fetches ahead that wait or run at once, beside what the running layer waits for: what is with the
    lane cannot be ranked anew; promote, cancel, chunks: see the base class.
    """

    def __init__(
        self,
        order: str = "linear",
        max_queued: int = 2,
        promote: bool = True,
        cancel: bool = True,
        chunks: int | None = None,
    ) -> None:
        if order not in PRIORITY:
            raise ValueError(f"policy.prefetch.order is '{order}'; expected one of {', '.join(PRIORITY)}.")
        for name, value in (("max_queued", max_queued), ("chunks", 1 if chunks is None else chunks)):
            if value < 1:
                raise ValueError(f"policy.prefetch.{name} is {value}; expected at least 1.")
        self._priority, self._max_queued = PRIORITY[order], max_queued
        self.promotes, self.cancels, self.chunks = promote, cancel, chunks
        self._waiting: dict[int, tuple[float, int]] = {}  # blob -> score, layers ahead when last looked at

    def choose(self, missing, work):
        scores = dict(zip(work.expected, work.scores, strict=True)) if work.scores is not None else {}
        anew = {work.layer_of(blob) for blob in work.expected}
        waiting = {}
        for blob, (score, before) in self._waiting.items():
            ahead = work.distance(blob)
            if ahead <= before and work.layer_of(blob) not in anew and not work.here_or_coming(blob):
                waiting[blob] = (score, ahead)
        for blob in missing:
            waiting[blob] = (scores.get(blob, 1.0), work.distance(blob))
        self._waiting = waiting
        own = sum(not work.resident(blob) for blob in work.blobs)
        free = max(0, self._max_queued - max(0, work.queued - own))
        layers = work.layers
        return heapq.nlargest(free, waiting, key=lambda blob: self._priority(*waiting[blob], layers))
