import numpy as np

from simulator.policies.precision.base import PrecisionPolicy


class ExpertBits(PrecisionPolicy):
    """Each expert is stored in a width of its own, fixed before the run: the bit map of EdgeMoE (arXiv 2308.14352).

    EdgeMoE searches the map for the least loss of accuracy (section 3.2), which no trace tells: the map is an input.
    levels: [layers][experts], each an index into `bits`. null: the most popular experts of the training requests, over
    all layers, take the first width, and so on; `shares` of the experts for each. Conversion to the arithmetic's width
    (2.7 % of the reading time, section 3.2) takes no time here.
    """

    def __init__(self, bits: list[float], shares: list[float], levels: list[list[int]] | None = None) -> None:
        if not bits or min(bits) <= 0 or sorted(bits, reverse=True) != list(bits):
            raise ValueError(f"policy.precision.bits is {list(bits)}; expected numbers above 0, the largest first.")
        if len(shares) != len(bits) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"policy.precision.shares is {list(shares)}; expected {len(bits)} shares that sum to 1.")
        self.bits = tuple(bits)
        self._shares, self._levels = shares, levels

    def bind(self, context):
        shape = (context.layers, context.experts)
        if self._levels is None:
            by_rank = np.argsort(-context.popularity(), kind="stable")
            borders = np.rint(np.cumsum(self._shares)[:-1] * len(by_rank))
            self._map = np.empty(len(by_rank), dtype=np.int64)
            self._map[by_rank] = np.searchsorted(borders, np.arange(len(by_rank)), side="right")
            self._map = self._map.reshape(shape)
        else:
            if [len(row) for row in self._levels] != [context.experts] * context.layers:
                raise ValueError(
                    f"policy.precision.levels has rows of {sorted({len(row) for row in self._levels})} numbers, of"
                    f" {len(self._levels)} layers; expected {shape[0]} rows of {shape[1]}."
                )
            self._map = np.array(self._levels)
            if self._map.min() < 0 or self._map.max() >= len(self.bits):
                raise ValueError(f"policy.precision.levels must be from 0 to {len(self.bits) - 1}, places in bits.")

    def level(self, layer, expert):
        return int(self._map[layer, expert])
