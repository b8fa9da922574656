"""What caches that listen to the prediction have in common."""

from __future__ import annotations

from simulator.policies.cache.lru import Lru


class ForecastCache(Lru):
    """Base of policies that drop the expert of least `worth`; of equals, the one unused for longest.

    What the prediction names of a layer replaces what it said of that layer before: experts of the layer that it
    does not name have score 0. Layers that it does not name keep what was said of them last.
    """

    hears_forecast = True

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[int, dict[int, float]] = {}  # layer -> blob -> score
        self._heard: dict[int, int] = {}  # layer -> group of the next run of the layer, counted from when it was said

    def worth(self, blob, view):
        """The lower, the sooner it leaves."""
        raise NotImplementedError

    def score(self, blob, view):
        """What was said of a blob last; None if nothing was said of its layer so far."""
        said = self._said.get(view.layer_of(blob))
        return None if said is None else said.get(blob, 0.0)

    def on_forecast(self, blobs, scores, view):
        if scores is None:
            scores = [1.0] * len(blobs)
        said: dict[int, dict[int, float]] = {}
        for blob, score in zip(blobs, scores, strict=True):
            said.setdefault(view.layer_of(blob), {})[blob] = score
        for layer in said:
            self._heard[layer] = view.group + (layer - view.layer - 1) % view.layers + 1
        self._said.update(said)

    def victims(self, need_bytes, incoming, view):
        return view.take_until(need_bytes, sorted(self._order, key=lambda blob: self.worth(blob, view)))
