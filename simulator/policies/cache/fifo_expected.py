from simulator.policies.cache.fifo import Fifo


class FifoExpected(Fifo):
    """Drops the experts that were loaded first, those that the prediction names for what is to come after all others.

    SiDA-MoE (MLSys 2024, arXiv 2310.18859): first in, first out when the budget is exceeded, while what is named for
    a batch is kept for it. A fetch ahead drops none that is named.
    """

    hears_forecast = True

    def __init__(self) -> None:
        super().__init__()
        self._named: set[int] = set()

    def on_forecast(self, blobs, scores, view):
        self._named = set(blobs)

    def victims(self, need_bytes, incoming, view):
        order = [blob for blob in self._order if blob not in self._named]
        if not view.prefetching:
            order += [blob for blob in self._order if blob in self._named]
        return view.take_until(need_bytes, order)
