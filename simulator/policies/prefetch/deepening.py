from simulator.policies.prefetch.ahead import FetchAhead


class Deepening(FetchAhead):
    """Fetches what the nearest layer is missing; a layer further on only once all that is expected before it is here.

    AdapMoE (arXiv 2408.10284, section 4.2) and HOBBIT (arXiv 2411.01433, section 3.3). Parameters as of `ahead`.
    """

    def choose(self, missing, work):
        nearest = min(map(work.distance, missing))
        return super().choose([blob for blob in missing if work.distance(blob) == nearest], work)
