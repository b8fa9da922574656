from simulator.policies.cache.lru import Lru


class LruTouched(Lru):
    """Drops the experts unused for longest; to be expected counts as a use (ProMoE, arXiv 2410.22134)."""

    hears_forecast = True

    def on_forecast(self, blobs, scores, view):
        for blob in reversed(blobs):  # the likeliest last, so that it stays longest
            if blob in self._order:
                self._order.move_to_end(blob)
