import numpy as np

from simulator.policies.cache.base import CachePolicy


class PromptHottest(CachePolicy):
    """Each layer keeps as many experts as it was given at the start: those that served most tokens of the last prompt.

    The residency of DAOP (DATE 2025, arXiv 2501.10375) after it has swapped hot experts of the host for cold ones of
    the worker; `execution=precalculate` names the hot ones. One that was here before the prompt counts `swap` times
    (`swap_in_out` of its repository). A layer that holds more than its number, as it lent room for copies, gives first.
    """

    def __init__(self, swap: float = 1.05) -> None:
        if swap < 1:
            raise ValueError(f"policy.cache.swap is {swap}; expected at least 1.")
        self._swap = swap
        self._share: dict[int, int] = {}  # layer -> experts at the start
        self._here: dict[int, None] = {}
        self._new: set[int] = set()  # not here before this prompt
        self._worth: dict[int, np.ndarray] = {}  # layer -> what each expert was worth to the last prompt, [experts]

    def bind(self, context):
        self._experts = context.experts

    def importance(self, view):
        """What each expert is worth to the prompt that runs, [experts]."""
        ids = view.routing.ids(view.layer).ravel()
        return np.bincount(ids[ids >= 0], minlength=self._experts)

    def on_layer(self, blobs, loads, view):
        if view.prefill and view.routing is not None:
            self._worth[view.layer] = self.importance(view)
            self._new.difference_update([blob for blob in self._new if view.layer_of(blob) == view.layer])
        self._here.update(dict.fromkeys(loads))
        self._new.update(loads)

    def on_insert(self, blobs, view):
        for blob in blobs:
            self._here[blob] = None
            layer = view.layer_of(blob)
            if view.group < 0:
                self._share[layer] = self._share.get(layer, 0) + 1

    def on_evict(self, blob):
        self._here.pop(blob, None)
        self._new.discard(blob)

    def victims(self, need_bytes, incoming, view):
        held: dict[int, list[int]] = {}
        for blob in self._here:
            held.setdefault(view.layer_of(blob), []).append(blob)
        own = view.layer_of(incoming[0])
        order: list[int] = []
        for layer, blobs in held.items():
            if layer != own:
                order += self.coldest(layer, held)[: max(0, len(blobs) - self._share.get(layer, 0))]
        return view.take_until(need_bytes, [*order, *self.coldest(own, held)])

    def coldest(self, layer, held):
        """Experts of a layer that are here, coldest first."""
        known = self._worth.get(layer)

        def worth(blob):
            own = 0.0 if known is None else float(known[blob % self._experts])
            return own * (1 if blob in self._new else self._swap), blob

        return sorted(held.get(layer, ()), key=worth)
