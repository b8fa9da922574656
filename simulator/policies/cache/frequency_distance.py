from simulator.policies.cache.base import CachePolicy


class FrequencyDistance(CachePolicy):
    """Drops the expert of least use per layer until its layer runs again: rarely activated, or far from its next use.

    EdgeMoE (arXiv 2308.14352, section 3.3): f / d, f the activations of the expert in the training requests and so far,
    d the layers until its own runs again. The paper prints d as (S - i + I) mod S for an expert of layer i while layer
    I of S runs, which counts the layers since; its words, and this, say until. With printed=True as printed.
    """

    def __init__(self, printed: bool = False) -> None:
        self._printed = printed
        self._here: dict[int, None] = {}

    def bind(self, context):
        self._uses = context.popularity().tolist()

    def on_layer(self, blobs, loads, view):
        for blob in blobs:
            self._here[blob] = None
            self._uses[blob] += 1

    def on_insert(self, blobs, view):
        self._here.update(dict.fromkeys(blobs))

    def on_evict(self, blob):
        self._here.pop(blob, None)

    def victims(self, need_bytes, incoming, view):
        layers = view.layers

        def worth(blob):
            ahead = (view.layer_of(blob) - view.layer) % layers
            distance = (layers - ahead) % layers if self._printed else ahead
            return self._uses[blob] / (distance or layers), blob

        return view.take_until(need_bytes, sorted(self._here, key=worth))
