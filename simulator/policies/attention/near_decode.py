from simulator.policies.attention.base import AttentionPolicy


class NearDecode(AttentionPolicy):
    """Attention of requests that decode runs on a unit over the worker's memory (Duplex, arXiv 2409.01141).

    unit: one of the platform's over that memory; "divided": all of them, heads and requests dealt out evenly; None: the
    first.
    """

    def __init__(self, unit: str | None = None) -> None:
        self._unit = unit

    def decode_on(self, units):
        return self._unit or (units[0] if units else "any")
