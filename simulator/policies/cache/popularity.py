from simulator.policies.cache.base import RankedCache


class Popularity(RankedCache):
    """Static: drops the expert chosen least often in the training requests, whatever happens now."""

    def bind(self, context):
        self._selections = context.popularity().tolist()

    def on_layer(self, blobs, loads, view):
        self.on_insert(loads, view)

    def on_insert(self, blobs, view):
        for blob in blobs:
            self.rank(blob, self._selections[blob])
