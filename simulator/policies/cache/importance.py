from simulator.policies.cache.base import CachePolicy
from simulator.policies.importance import gate_values


class LeastImportant(CachePolicy):
    """Drops the expert of least importance: gate values summed over all tokens so far, of chosen experts or not.

    SwapMoE (ACL 2024, arXiv 2308.15030, section 3.2). For a fetch ahead only one that matters less than what comes.
    """

    uses = ("weights", "probabilities")

    def bind(self, context):
        self._experts = context.experts
        self._importance: dict[int, float] = {}
        self._here: dict[int, None] = {}

    def on_layer(self, blobs, loads, view):
        self._here.update(dict.fromkeys(blobs))
        if view.routing is not None:
            begin = view.layer * self._experts
            for expert, value in enumerate(gate_values(view.routing, view.layer, self._experts).tolist()):
                self._importance[begin + expert] = self._importance.get(begin + expert, 0.0) + value

    def on_insert(self, blobs, view):
        self._here.update(dict.fromkeys(blobs))

    def on_evict(self, blob):
        self._here.pop(blob, None)

    def victims(self, need_bytes, incoming, view):
        def worth(blob):
            return self._importance.get(blob, 0.0)

        order = sorted(self._here, key=worth)
        if view.prefetching:
            most = max(worth(blob) for blob in incoming)
            order = [blob for blob in order if worth(blob) < most]
        return view.take_until(need_bytes, order)
