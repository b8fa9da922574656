from simulator.policies.precision.base import PrecisionPolicy


class AsStored(PrecisionPolicy):
    """Every expert as the model file stores it."""
