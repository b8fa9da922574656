"""What the router said in the step that runs, for the policies that ask to see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulator.residency import PolicyError

if TYPE_CHECKING:
    from simulator.plan import Step
    from simulator.residency import Slot, Tier

PARTS = ("weights", "probabilities")  # what a policy may name in `needs` or `uses`


class Routing:
    """Of the current step, layer by layer; n tokens, k slots, E experts. One object per worker."""

    __slots__ = ("_step",)

    def __init__(self) -> None:
        self._step: Step | None = None

    def begin(self, step: Step) -> None:
        """A step begins."""
        self._step = step

    def _now(self) -> Step:
        if self._step is None:
            raise PolicyError("a policy asks what the router said, which is seen on platforms of one worker only.")
        return self._step

    @property
    def requests(self) -> list[int]:
        """Ids of the requests in the step."""
        return self._now().requests

    def ids(self, layer: int) -> np.ndarray:
        """Experts chosen by each token, [n, k], -1 where a slot is empty. Raises PolicyError with several workers."""
        return np.concatenate([rows[:, layer] for rows in self._now().rows])

    def instances(self) -> np.ndarray:
        """The instance that each token asks, where there are several, [n]."""
        step = self._now()
        return np.repeat(step.block.instances, [len(rows) for rows in step.rows])

    def weights(self, layer: int) -> np.ndarray:
        """Gate weights of each token's experts, [n, k]; equal ones where the trace has none."""
        parts = self._now().weights
        if parts is None:
            return equal_weights(self.ids(layer))
        weights = np.concatenate([rows[:, layer] for rows in parts]).astype(np.float64)
        return np.where(np.isnan(weights), equal_weights(self.ids(layer)), weights)

    def probabilities(self, layer: int) -> np.ndarray | None:
        """The router's probabilities for each token, [n, E]; None where the trace has none."""
        parts = self._now().probabilities
        return None if parts is None else np.concatenate([rows[:, layer] for rows in parts]).astype(np.float64)

    def shares(self, layer: int) -> dict[int, float]:
        """Expert -> its gate weight in this step, summed over tokens."""
        return summed(self.ids(layer), self.weights(layer))


class Choice:
    """What one layer's router chose, and what is resident. n tokens, k slots, E experts.

    layer: ordinal of the routed layer; prefill: whether the step processes a prompt; ids, weights: [n, k];
    probabilities: [n, E] or None where the trace has none; guessed: experts (of this layer) that the
    prediction named for it, most likely first.
    """

    __slots__ = ("_experts", "_tier", "guessed", "ids", "layer", "prefill", "probabilities", "weights")

    def __init__(
        self,
        layer: int,
        prefill: bool,
        routing: Routing,
        tier: Tier,
        experts: int,
        guessed: list[int],
    ) -> None:
        self.layer = layer
        self.prefill = prefill
        self.ids = routing.ids(layer)
        self.weights = routing.weights(layer)
        self.probabilities = routing.probabilities(layer)
        self.guessed = guessed
        self._tier = tier
        self._experts = experts

    def resident(self, coming: bool = True) -> np.ndarray:
        """Which of the layer's experts are in the worker's memory at some precision, bool [E]; `coming`: or on
        their way."""
        slots, experts = self._tier.slots, self._experts
        layers = self._tier.layers
        found = np.zeros(experts, dtype=bool)
        for row in range(self.layer, len(slots) // experts, layers):
            begin = row * experts
            found |= np.array([_here(slot, coming) for slot in slots[begin : begin + experts]])
        return found


def _here(slot: Slot, coming: bool) -> bool:
    return slot is not None and (coming or slot is True or slot.landed_ps is not None)  # type: ignore[union-attr]


def equal_weights(ids: np.ndarray) -> np.ndarray:
    """The same weight for each expert of a token, float64, 0 in empty slots: [..., k] ids -> [..., k]."""
    there = ids >= 0
    count = np.maximum(there.sum(axis=-1, keepdims=True), 1)
    return there / count


def weight_shares(ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights as shares of each token's sum, float64 [..., k], 0 in empty slots; equal ones where nothing is known."""
    there = np.where(ids >= 0, np.nan_to_num(weights), 0.0).astype(np.float64)
    total = there.sum(axis=-1, keepdims=True)
    return np.where(total > 0, there / np.where(total > 0, total, 1.0), equal_weights(ids))


def summed(ids: np.ndarray, weights: np.ndarray) -> dict[int, float]:
    """Expert -> sum of its weights, in order of first mention; ids and weights [n, k]."""
    total: dict[int, float] = {}
    for expert, weight in zip(ids.ravel().tolist(), weights.ravel().tolist(), strict=True):
        if expert >= 0:
            total[expert] = total.get(expert, 0.0) + weight
    return total


def lost_weight(before: np.ndarray, weights: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gate weight of chosen experts that do not run: what was dropped, and what others stand in for.

    before, after: ids [..., k]; weights of `before` [..., k], taken as shares of their sum. An expert that
    was chosen and is not among `after` is lost. New experts stand in for lost ones, one for one; so of the
    lost weight the share new / lost is substituted and the rest dropped. Returns (dropped, substituted) [...].
    """
    weights = weight_shares(before, weights)
    kept = (before[..., :, None] == after[..., None, :]).any(axis=-1)
    lost = (before >= 0) & ~kept
    new = (after >= 0) & ~(after[..., :, None] == before[..., None, :]).any(axis=-1)
    missing = lost.sum(axis=-1)
    stand_in = np.minimum(new.sum(axis=-1), missing) / np.maximum(missing, 1)
    gone = np.where(lost, weights, 0.0).sum(axis=-1)
    return gone * (1 - stand_in), gone * stand_in
