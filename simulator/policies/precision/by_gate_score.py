import numpy as np

from simulator.policies.precision.base import PrecisionPolicy


class ByGateScore(PrecisionPolicy):
    """High precision for the experts that matter to a token, low precision or nothing for the others.

    Token-level dynamic loading of HOBBIT (arXiv 2411.01433, section 3.2): a token's experts in order of gate weight;
    how little the i-th matters is the share of weight before it, s_i (0 for the best). s <= high_below: as stored; up
    to low_below: `low_bits`; beyond: skipped. An expert that serves several tokens takes the best level any of them
    wants. `low_share`: share of the memory for the low-precision cache. `low_bits` is below what the model stores.
    """

    needs = ("weights",)
    by_score = True

    def __init__(
        self, low_bits: float = 4.5, high_below: float = 0.6, low_below: float = 0.9, low_share: float = 0.2
    ) -> None:
        if not 0 <= high_below <= low_below or not 0 < low_share < 1 or low_bits <= 0:
            raise ValueError(
                f"policy.precision: high_below is {high_below}, low_below {low_below}, low_share {low_share} and"
                f" low_bits {low_bits}; expected 0 <= high_below <= low_below, a share between 0 and 1, bits above 0."
            )
        self.bits = (None, low_bits)
        self.shares = (1 - low_share, low_share)
        self._borders = (high_below, low_below)

    def wanted(self, blobs, choice):
        weights = np.where(choice.ids >= 0, choice.weights, 0.0)
        order = np.argsort(-weights, axis=1, kind="stable")
        ranked = np.take_along_axis(weights, order, axis=1)
        before = (np.cumsum(ranked, axis=1) - ranked) / np.maximum(ranked.sum(axis=1, keepdims=True), 1e-30)
        level = np.searchsorted(np.array(self._borders) + 1e-9, before)
        best: dict[int, int] = {}
        for expert, wants in zip(np.take_along_axis(choice.ids, order, axis=1).flat, level.flat, strict=True):
            best[int(expert)] = min(int(wants), best.get(int(expert), 2))
        begin = blobs[0] - blobs[0] % self._experts if blobs else 0
        return [best[blob - begin] for blob in blobs]

    def bind(self, context):
        low_bits = self.bits[1]
        if low_bits >= context.stored_bits:
            raise ValueError(
                f"policy.precision.low_bits is {low_bits:g}, but the model stores its experts in"
                f" {context.stored_bits:g} bits; expected fewer."
            )
        self._experts = context.experts
