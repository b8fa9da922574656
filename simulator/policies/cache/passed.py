from simulator.policies.cache.base import CachePolicy


class PassedLayers(CachePolicy):
    """Experts of the layer that runs again last leave first: those of the layer that has just run."""

    def __init__(self) -> None:
        self._here: dict[int, None] = {}

    def on_layer(self, blobs, loads, view):
        self._here.update(dict.fromkeys(blobs))

    def on_insert(self, blobs, view):
        self._here.update(dict.fromkeys(blobs))

    def on_evict(self, blob):
        self._here.pop(blob, None)

    def victims(self, need_bytes, incoming, view):
        def waits(blob):  # layers until it may be asked for again
            return (view.layer_of(blob) - view.layer - 1) % view.layers

        return view.take_until(need_bytes, sorted(self._here, key=lambda blob: (-waits(blob), blob)))
