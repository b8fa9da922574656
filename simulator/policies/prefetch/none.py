from simulator.policies.prefetch.base import PrefetchPolicy


class NoPrefetch(PrefetchPolicy):
    """Fetches nothing before it is asked for."""

    def choose(self, missing, work):
        return ()
