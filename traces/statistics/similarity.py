"""Are requests alike, are those of one task more so, and do they drift from beginning to end?

Two sets of tokens are compared by `shared_mass`: 1 - total variation distance of their spread over experts, mean of
the layers. It falls with the size of the sets, so sets that are compared with one another have the same sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from traces.schema import RequestInfo, RequestTrace, TraceMeta
from traces.statistics.counting import expert_counts, shared_mass
from traces.statistics.hidden import EMBEDDING_KEYS, embedding_statistics

MOST_REQUESTS = 256


class Similarity:
    """Halves of requests compared: with the other half, another request's of the same task, of another task.

    The first half of one request is compared with the second half of one; `request_similarity_shuffle` splits each
    request at random. Of more than MOST_REQUESTS requests so many are taken, at even distances.
    Tasks count where there are at least two, one of them with two requests; the control of
    `same_task_similarity` and `other_task_similarity` is `other_request_similarity`: tasks dealt at random.
    Beside it stand similarities by embedding (`traces.statistics.hidden`), if the trace has them; `seed` is of these.
    """

    def __init__(self, meta: TraceMeta, requests: Sequence[RequestInfo], seed: int = 0) -> None:
        self._seed = seed
        self._experts = meta.num_experts
        wanted = [info for info in requests if info.tokens > 1]
        places = np.linspace(0, len(wanted) - 1, min(len(wanted), MOST_REQUESTS)).round().astype(int)
        self._tasks = {wanted[place].id: wanted[place].task for place in places}
        self._halves: list[np.ndarray] = []
        self._shuffled: list[np.ndarray] = []
        self._kept_tasks: list[str | None] = []
        self._embeddings: list[np.ndarray] = []

    def add(self, request: RequestTrace, order: np.ndarray) -> None:
        if request.id not in self._tasks:
            return
        half = request.tokens // 2
        parts = (request.experts[:half], request.experts[half : 2 * half])
        self._halves.append(np.stack([expert_counts(part, self._experts) for part in parts]).astype(np.int32))
        mixed = (request.experts[order[:half]], request.experts[order[half : 2 * half]])
        self._shuffled.append(shared_mass(*(expert_counts(part, self._experts) for part in mixed)))
        self._kept_tasks.append(self._tasks[request.id])
        if request.embedding is not None:
            self._embeddings.append(request.embedding)

    def result(self) -> dict[str, Any]:
        names = ("request", "other_request", "same_task", "other_task")
        out: dict[str, Any] = {f"{name}_similarity": None for name in names}
        out["request_similarity_shuffle"] = None
        out |= dict.fromkeys(EMBEDDING_KEYS)
        if not self._halves:
            return out
        halves = np.stack(self._halves)
        matrix = np.stack([shared_mass(halves[None, row, 0], halves[:, 1]) for row in range(len(halves))])
        own = np.eye(len(matrix), dtype=bool)
        tasks = np.array([str(task) for task in self._kept_tasks])
        same = (tasks[:, None] == tasks[None, :]) & ~own
        labelled = None not in self._kept_tasks and same.any() and not (same | own).all()
        picks = {"request": own, "other_request": ~own}
        if labelled:
            picks |= {"same_task": same, "other_task": ~same & ~own}
        out |= {f"{name}_similarity": _mean(matrix[where]) for name, where in picks.items()}
        if self._embeddings:
            out |= embedding_statistics(np.stack(self._embeddings), matrix, same if labelled else None, self._seed)
        return {**out, "request_similarity_shuffle": _mean(np.array(self._shuffled))}


class Drift:
    """Similarity of a request's first quarter to its second, third and fourth; mean over requests of 8 tokens or more.

    The control shuffles the tokens of each request.
    """

    def __init__(self, meta: TraceMeta) -> None:
        self._experts = meta.num_experts
        self._seen: list[list[np.ndarray]] = []

    def add(self, request: RequestTrace, order: np.ndarray) -> None:
        quarter = request.tokens // 4
        if quarter < 2:
            return
        row = []
        for experts in (request.experts, request.experts[order]):
            parts = [experts[part * quarter : (part + 1) * quarter] for part in range(4)]
            first, *others = (expert_counts(part, self._experts) for part in parts)
            row.append(np.array([shared_mass(first, other) for other in others]))
        self._seen.append(row)

    def result(self) -> dict[str, Any]:
        seen = np.array(self._seen).reshape(-1, 2, 3)
        return {
            name: {str(quarter + 2): _mean(seen[:, kind, quarter]) for quarter in range(3)} if len(seen) else None
            for kind, name in enumerate(("quarter_similarity", "quarter_similarity_shuffle"))
        }


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
