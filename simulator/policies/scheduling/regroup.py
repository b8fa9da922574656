import numpy as np
from scipy.cluster.vq import ClusterError, kmeans2

from simulator.policies.scheduling.base import SchedulingPolicy, Turn, with_room


class Regroup(SchedulingPolicy):
    """Two batches of `batch_size` requests run in turns; before each pair of steps they are grouped anew by paths.

    Token scheduler of ExpertFlow (arXiv 2410.17954): K-means over the predicted paths of two adjacent batches,
    whose squared distance of one-hot vectors is twice the Hamming distance, so that each step asks for fewer
    distinct experts. Here the halves are of equal size, the requests nearest to the first centre in the first, and
    paths are those that the tokens will take (its predictor is right in nine of ten). The KV cache of a request that
    changes its half is copied within the GPU's memory, read once and written once; the clustering's time, below 10 ms
    on the host and beside the computation, is not counted. A prompt is processed at once, with its batch. regroup:
    false keeps the order of admission.
    """

    def __init__(self, batch_size: int = 16, regroup: bool = True) -> None:
        if batch_size < 1:
            raise ValueError(f"policy.scheduling.batch_size is {batch_size}; expected at least 1.")
        self.max_batch, self._size, self._regroup = 2 * batch_size, batch_size, regroup
        self._second: list = []
        self._half: dict[int, int] = {}  # order of a request -> the half it was in

    def bind(self, context):
        self._layers, self._experts = context.layers, context.experts

    def next_turn(self, view):
        running = set(view.running)
        group = [request for request in self._second if request in running or request in view.waiting]
        self._second = []
        if not group:
            ready = with_room(view, self.max_batch)
            if self._regroup and len(ready) > self._size:
                ready = self._by_path(ready, view)
            border = min(self._size, -(-len(ready) // 2)) if len(ready) > self._size else len(ready)
            halves = ready[:border], ready[border:]
            turn = Turn(moved=self._moved(halves) if self._regroup else [])
            group, self._second = halves
            turn.parts.update((request, request.prompt_left or 1) for request in group)
            return turn
        return Turn({request: request.prompt_left or 1 for request in group})

    def _moved(self, halves):
        """Requests that come into another half's block of memory; which half is called the first, is free to choose."""
        changed: list[list] = [[], []]  # if the halves keep their names, and if they exchange them
        for half, requests in enumerate(halves):
            for request in requests:
                if request.order in self._half:
                    changed[self._half[request.order] == half].append(request)
        exchanged = len(changed[1]) < len(changed[0])
        self._half = {request.order: half ^ exchanged for half, requests in enumerate(halves) for request in requests}
        return changed[exchanged]

    def _by_path(self, ready, view):
        """Requests by how much nearer they are to the first of two centres."""
        paths = np.array([self._path(view.asked(request)) for request in ready])
        far = ((paths[:, None] - paths[None]) ** 2).sum(axis=2)
        ends = np.unravel_index(int(far.argmax()), far.shape)
        try:
            centres, _ = kmeans2(paths, paths[list(ends)], minit="matrix", missing="raise")
        except ClusterError:  # all alike
            return ready
        apart = ((paths - centres[0]) ** 2).sum(axis=1) - ((paths - centres[1]) ** 2).sum(axis=1)
        return [ready[place] for place in np.argsort(apart, kind="stable")]

    def _path(self, rows):
        """1 for each (layer, expert) that the tokens ask for, else 0."""
        path = np.zeros((self._layers, self._experts))
        layers = np.broadcast_to(np.arange(self._layers)[None, :, None], rows.shape)
        there = rows >= 0
        path[layers[there], rows[there]] = 1
        return path.ravel()
