from simulator.policies.cache.base import CachePolicy


class WeightedTerms(CachePolicy):
    """Evicts the least of a weighted sum: how recently used, how often used, how soon its layer runs again.

    HOBBIT (arXiv 2411.01433, section 3.4): w_lru R/T + w_lfu F/T + w_fld (1 - d/l_n), R the last use, F uses, T tokens
    so far, d the layers from the running one on to the expert's, l_n all layers. Its fourth term, uses at high
    precision, is F here, as each precision has a cache of its own. Counts start anew with every sequence. Equal
    weights are an assumption.
    """

    def __init__(self, recency: float = 1.0, frequency: float = 1.0, distance: float = 1.0) -> None:
        if min(recency, frequency, distance) < 0:
            raise ValueError(
                f"policy.cache: recency {recency}, frequency {frequency} and distance {distance}; expected 0 or more."
            )
        self._weights = (recency, frequency, distance)
        self._uses: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._here: dict[int, None] = {}

    def on_layer(self, blobs, loads, view):
        token = view.group // view.layers + 1
        for blob in blobs:
            self._here[blob] = None
            self._uses[blob] = self._uses.get(blob, 0) + 1
            self._last[blob] = token

    def on_insert(self, blobs, view):
        self._here.update(dict.fromkeys(blobs))

    def on_evict(self, blob):
        self._here.pop(blob, None)

    def on_sequence_end(self, view):
        self._uses.clear()
        self._last.clear()

    def victims(self, need_bytes, incoming, view):
        recency, frequency, distance = self._weights
        layers, tokens = view.layers, view.group // view.layers + 1

        def priority(blob):
            soon = 1 - (view.layer_of(blob) - view.layer - 1) % layers / layers
            used = recency * self._last.get(blob, 0) + frequency * self._uses.get(blob, 0)
            return used / tokens + distance * soon, blob

        return view.take_until(need_bytes, sorted(self._here, key=priority))
