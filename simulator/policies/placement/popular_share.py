import numpy as np

from simulator.policies.placement.base import PlacementPolicy


class PopularShare(PlacementPolicy):
    """Starts with a share of all experts, the most popular, and leaves the rest of the room empty.

    per_layer: as many in every layer, what is left over by popularity (DAOP, arXiv 2501.10375, `set_expert_loc` of its
    repository; "uniform" of KTransformers), or else by popularity alone ("frequency"). Popularity is that of the
    requests that are not served.
    """

    def __init__(self, share: float = 0.5, per_layer: bool = True) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"policy.placement.share is {share}; expected a number from 0 to 1.")
        self._share, self._per_layer = share, per_layer

    def bind(self, context):
        counts = context.popularity().reshape(context.layers, context.experts)
        order = np.argsort(-counts.ravel(), kind="stable").tolist()
        total = round(self._share * counts.size)
        first: list[int] = []
        if self._per_layer:
            best = np.argsort(-counts, axis=1, kind="stable")[:, : total // context.layers]
            first = (best + np.arange(context.layers)[:, None] * context.experts).T.ravel().tolist()
        taken = set(first)
        self._order = [*first, *(blob for blob in order if blob not in taken)][:total]

    def initial(self):
        return self._order
