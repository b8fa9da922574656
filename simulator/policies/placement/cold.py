from simulator.policies.placement.base import PlacementPolicy


class ColdStart(PlacementPolicy):
    """Nothing is resident at the start; experts are owned round-robin."""
