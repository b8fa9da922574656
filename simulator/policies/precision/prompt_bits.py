from collections.abc import Sequence

import numpy as np

from simulator.policies.precision.base import PrecisionPolicy
from simulator.policies.prompt_importance import check_alpha, prompt_importance


class PromptBits(PrecisionPolicy):
    """Decode reads what the worker lacks at fewer bits, more of them for what mattered more to the prompt.

    Context-aware GPU-NDP (arXiv 2512.04476). The `share` most important experts of a layer are meant for the worker, as
    stored; over the others, widths fall with importance (a prefix has the widest, and so on), their mean is at most
    `mean_bits`; of all such divisions the one of least sum of importance x loss is taken. losses: of each width; the
    publication tabulates them, the preset takes those of a uniform quantiser, 4 to the power of -bits. Copies at all
    widths lie in the unit's memory beside the stored ones. Prompts run as stored.
    """

    uses = ("weights",)
    by_score = True

    def __init__(
        self,
        widths: list[float],
        losses: list[float],
        mean_bits: float = 3.0,
        share: float = 0.5,
        alpha: float = 0.5,
    ) -> None:
        check_alpha(alpha, "precision")
        widths, losses = list(widths), list(losses)
        if not widths or min(widths) <= 0 or sorted(set(widths), reverse=True) != widths:
            raise ValueError(f"policy.precision.widths is {widths}; expected numbers above 0, the largest first.")
        if len(losses) != len(widths):
            raise ValueError(f"policy.precision.losses has {len(losses)} numbers; expected {len(widths)}, as widths.")
        if not 0 <= share <= 1 or mean_bits < widths[-1]:
            raise ValueError(
                f"policy.precision: share is {share} and mean_bits {mean_bits}; expected a share from 0 to 1, and at"
                f" least the least width, {widths[-1]}."
            )
        self.bits = (None, *widths)
        self._widths = widths
        self._mean_bits, self._share, self._alpha, self._losses = mean_bits, share, alpha, losses
        self._levels: dict[int, list[int]] = {}  # layer -> level of each expert since the last prompt

    def bind(self, context):
        if self.bits[1] >= context.stored_bits:
            raise ValueError(
                f"policy.precision.widths begin with {self.bits[1]:g}, but the model stores its experts in"
                f" {context.stored_bits:g} bits; expected fewer."
            )
        self._experts = context.experts

    def wanted(self, blobs, choice):
        if choice.prefill:
            importance = prompt_importance(choice.ids, choice.weights, self._experts, self._alpha)
            order = np.argsort(-importance, kind="stable")
            hot = round(self._share * self._experts)
            widths = allocate(importance[order[hot:]], self._widths, self._losses, self._mean_bits)
            levels = np.ones(self._experts, dtype=int)  # a hot one that is not here after all: the widest
            levels[order[hot:]] = 1 + widths
            self._levels[choice.layer] = levels.tolist()
            return [0] * len(blobs)
        known = self._levels.get(choice.layer)
        return [0 if known is None else known[blob % self._experts] for blob in blobs]


def allocate(importance: np.ndarray, widths: Sequence[float], losses: Sequence[float], mean: float) -> np.ndarray:
    """Place in `widths` of each expert, least important last, [n]: of all divisions of the order into runs, widest
    first, whose mean width is at most `mean`, the one of least sum of importance x loss; ties to the fewest bits.

    Dynamic programming over widths would not do, as the sum of bits counts; all (n + 1)^(widths - 1) are tried.
    """
    count = len(importance)
    sums = np.concatenate([[0.0], np.cumsum(importance)])
    axes = np.meshgrid(*[np.arange(count + 1)] * (len(widths) - 1), indexing="ij")  # where the next width begins
    borders = [np.zeros_like(axes[0]) if axes else np.zeros(()), *axes]
    ends = [*axes, np.full_like(borders[0], count)]
    valid = np.ones(np.shape(borders[0]), dtype=bool)
    bits, loss = np.zeros(valid.shape), np.zeros(valid.shape)
    for begin, end, width, worth in zip(borders, ends, widths, losses, strict=True):
        begin, end = begin.astype(int), end.astype(int)
        valid &= begin <= end
        bits += width * (end - begin)
        loss += worth * (sums[end] - sums[begin])
    valid &= bits <= mean * count + 1e-9
    if not valid.any():
        raise ValueError(f"no division of {count} experts has a mean width of at most {mean}.")
    loss = np.where(valid, np.round(loss, 12), np.inf)
    best = min(zip(*np.nonzero(loss == loss.min()), strict=True), key=lambda at: (bits[at], at))
    return np.searchsorted(np.array(best), np.arange(count), side="right")
