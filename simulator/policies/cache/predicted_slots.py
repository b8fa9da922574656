from simulator.policies.cache.lru import Lru


class PredictedSlots(Lru):
    """One pool of slots for what is predicted of the pass, shared among the layers to come as each is to ask.

    PLEC of ExpertFlow (arXiv 2410.17954): a layer to come gets slots in proportion to its predicted distinct
    experts, and a layer that is done gives its slots to the later ones, so that shares grow as the pass goes on.
    What is fetched ahead stays within its layer's share. Who leaves: experts of layers that are done or whose layer
    is predicted not to ask for them, the longest unused first; for a load that a layer waits for, then those
    predicted for the farthest layer.
    """

    hears_forecast = True

    def __init__(self) -> None:
        super().__init__()
        self._named: dict[int, set[int]] = {}  # layer to come -> what it is predicted to ask for

    def bind(self, context):
        self._slots = context.capacity_bytes // max(context.size_bytes)

    def on_forecast(self, blobs, scores, view):
        self._named = {}
        for blob in blobs:
            self._named.setdefault(view.layer_of(blob), set()).add(blob)

    def share(self, layer):
        """Slots of a layer to come."""
        asked = {ahead: len(blobs) for ahead, blobs in self._named.items()}
        return self._slots * asked.get(layer, 0) // max(1, sum(asked.values()))

    def victims(self, need_bytes, incoming, view):
        self._named = {layer: blobs for layer, blobs in self._named.items() if layer > view.layer}
        wanted = set().union(*self._named.values())
        order = [blob for blob in self._order if blob not in wanted]
        if view.prefetching:
            layer = view.layer_of(incoming[0])
            if sum(blob in self._order for blob in self._named.get(layer, ())) >= self.share(layer):
                return []
        else:
            order += sorted((blob for blob in self._order if blob in wanted), key=view.layer_of, reverse=True)
        return view.take_until(need_bytes, order)
