import math

from simulator.policies.execution.near import NearExecution


class NearRatio(NearExecution):
    """The H activated experts with most tokens are fetched, the others run near memory (MoNDE, arXiv 2405.18832).

    H = alpha * BW_link / (BW_link + BW_memory) * activated experts, rounded up: both sides then move their weights in
    one time. Bandwidths are those that one expert sees, its bytes by its time on link and unit, unless both are given.
    MoNDE tunes alpha to the model.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        link_bytes_per_s: float | None = None,
        memory_bytes_per_s: float | None = None,
        unit: str | None = None,
    ) -> None:
        super().__init__(unit)
        if alpha < 0 or (link_bytes_per_s is None) != (memory_bytes_per_s is None):
            raise ValueError(
                f"policy.execution.alpha is {alpha}, link_bytes_per_s {link_bytes_per_s} and memory_bytes_per_s"
                f" {memory_bytes_per_s}; expected alpha of at least 0, and both bandwidths or neither."
            )
        self._alpha, self._share = alpha, None
        if link_bytes_per_s is not None and memory_bytes_per_s is not None:
            self._share = link_bytes_per_s / (link_bytes_per_s + memory_bytes_per_s)

    def count(self, work, unit, order):
        if not order:
            return 0
        share = self._share
        if share is None:
            near_ps, fetch_ps = work.unit_ps(unit, order[0]), work.fetch_ps(order[0])
            share = near_ps / (near_ps + fetch_ps)
        return min(len(order), math.ceil(self._alpha * share * len(order)))
