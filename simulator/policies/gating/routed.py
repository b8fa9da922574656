from simulator.policies.gating.base import GatingPolicy


class AsRouted(GatingPolicy):
    """The router's choice, unchanged."""
