import numpy as np

from simulator.policies.placement.base import PlacementPolicy


class PopularFirst(PlacementPolicy):
    """Starts with the experts that the requests not served here chose most often."""

    def bind(self, context):
        self._order = np.argsort(-context.popularity(), kind="stable").tolist()

    def initial(self):
        return self._order
