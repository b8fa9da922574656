"""Router probabilities and gate weights that agree with choices drawn before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MASK = np.uint32(0xFFFFF000)  # keeps 12 significant bits of a probability
_LEAST = 1e-9  # share of an expert that is never used


@dataclass(frozen=True, eq=False)
class GateProfile:
    """How decided the router of each layer is, and how its probabilities become weights.

    A token's choices are a race (the exponential form of Plackett and Luce): expert e arrives after an exponential time
    A_e of rate `share[e]`, and the first k are chosen. Given who came in which order, the times are drawn exactly; the
    router's logits are -sharpness · log A, so one number per layer says how unequal weights are: 0 for equal ones.
    The rates are the popularities of the layer: what a token's context adds to them is in the order alone.

    sharpness     float64 [L]
    renormalised  weights are softmax over the chosen (sum 1); else those of the softmax over all experts
    """

    sharpness: np.ndarray
    renormalised: bool = True

    def probabilities(self, experts: np.ndarray, use: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Probabilities float32 [T, L, E] whose k largest are `experts` [T, L, k], in this order.

        use [L, E]: mean number of choices per token; only the proportions count.
        """
        tokens, layers, slots = experts.shape
        share = np.maximum(use / use.sum(axis=1, keepdims=True, dtype=np.float64), _LEAST)
        share /= share.sum(axis=1, keepdims=True)
        ids = experts.astype(np.int64)
        own = share[np.arange(layers)[:, None], ids]
        before = np.maximum(1.0 - own.cumsum(axis=2) + own, _LEAST)  # rate of those who had not arrived
        first = (rng.standard_exponential((tokens, layers, slots)) / before).cumsum(axis=2)
        time = rng.standard_exponential((tokens, layers, use.shape[1]))
        time /= share
        time += first[:, :, -1:]
        np.put_along_axis(time, ids, first, axis=2)
        np.log(time, out=time)
        time -= np.take_along_axis(time, ids[:, :, :1], axis=2)
        time *= -self.sharpness[:, None]
        np.exp(time, out=time)
        time /= time.sum(axis=2, keepdims=True)
        return (time.astype(np.float32).view(np.uint32) & _MASK).view(np.float32)

    def weights(self, probabilities: np.ndarray, experts: np.ndarray) -> np.ndarray:
        """Gate weights float32 [T, L, k] of `experts`, by the model's rule."""
        chosen = np.take_along_axis(probabilities, experts.astype(np.int64), axis=2)
        return chosen / chosen.sum(axis=2, keepdims=True) if self.renormalised else chosen
