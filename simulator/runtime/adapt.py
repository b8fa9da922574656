"""Gating and precision: what the router chose -> the blobs that a layer asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.plan import Group, union
from simulator.policies.gating.base import GatingPolicy
from simulator.policies.precision.base import PrecisionPolicy
from simulator.residency import PolicyError, Tier
from simulator.routing import Choice, Routing, lost_weight, summed, weight_shares

DROPPED, SUBSTITUTED, LOW = range(3)


class Adapter:
    """Of one worker. `lost[prefill][layer]`: gate weight dropped, substituted, and run below the first level of
    precision, each token's weights taken as shares of their sum.

    `home[blob]`: the blob that stands for a blob of level 0 unless scores decide.
    """

    def __init__(
        self, tier: Tier, routing: Routing, experts: int, gating: GatingPolicy, precision: PrecisionPolicy
    ) -> None:
        self._tier, self._routing, self._experts = tier, routing, experts
        self._gating, self._precision = gating, precision
        self._levels = len(precision.bits)
        self._bank = tier.layers * experts
        self.home = [blob + self._bank * self._level(blob // experts, blob % experts) for blob in range(self._bank)]
        self.lost = [[[0.0, 0.0, 0.0] for _ in range(tier.layers)] for _ in range(2)]
        self._guessed: Sequence[int] = ()
        self._read: dict[int, int] = {}  # blob of the running layer -> level at which it is read, if nested

    @property
    def by_residency(self) -> bool:
        """Whether what a layer asks for depends on what is in memory, so that the plan does not tell it."""
        return self._gating.chooses or self._precision.by_score

    @property
    def nested(self) -> bool:
        """Whether there is one copy of an expert, of which parts are read."""
        return self._precision.nested

    def _level(self, layer: int, expert: int) -> int:
        level = self._precision.level(layer, expert)
        if not 0 <= level < self._levels:
            raise PolicyError(
                f"policy/precision gives expert {expert} of layer {layer} level {level}; expected 0 to"
                f" {self._levels - 1}."
            )
        return level

    def row(self, blob: int) -> int:
        """level * layers + layer of what is read of a blob when it runs."""
        return blob // self._experts + self._tier.layers * self._read.get(blob, 0)

    def read_bytes(self, blob: int) -> int:
        """Bytes of it that are read when it runs."""
        return self._tier.sizes[self.row(blob) * self._experts]

    def expect(self, guesses: Sequence[int]) -> None:
        """What the prediction named after the layer that has just run."""
        self._guessed = guesses

    def blobs(self, layer: int, prefill: bool, group: Group) -> tuple[list[int], dict[int, int]]:
        """Blobs that the layer asks for, in order of access, and the tokens that each serves."""
        blobs, counts = group
        tokens = dict(zip(blobs, counts or [1] * len(blobs), strict=True))
        ids, weights = self._routing.ids(layer), self._routing.weights(layer)
        choice: Choice | None = None
        if self.by_residency:
            expected = [blob % self._experts for blob in self._guessed if blob // self._experts == layer]
            choice = Choice(layer, prefill, self._routing, self._tier, self._experts, expected)
        if self._gating.chooses:
            assert choice is not None
            ids, weights = self._chosen(choice)
            blobs, counts = union(np.where(ids >= 0, ids + layer * self._experts, -1).tolist())
            tokens = dict(zip(blobs, counts or (), strict=True))
        if self._levels > 1:
            tokens = self._at_levels(layer, tokens, ids, weights, prefill, choice)
        return list(tokens), tokens

    def _chosen(self, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
        before, weights_before, layer = choice.ids, choice.weights, choice.layer
        ids, weights = self._gating.choose(choice)
        if ids.shape != before.shape or ids.min(initial=0) < -1 or ids.max(initial=0) >= self._experts:
            raise PolicyError(
                f"policy/gating {type(self._gating).__name__} chose {ids.tolist()[:2]} in layer {layer}; expected"
                f" {before.shape} experts from 0 to {self._experts - 1}, or -1."
            )
        dropped, substituted = lost_weight(before, weights_before, ids)
        lost = self.lost[choice.prefill][layer]
        lost[DROPPED] += float(dropped.sum())
        lost[SUBSTITUTED] += float(substituted.sum())
        choice.ids, choice.weights = ids, weights
        return ids, weights

    def _at_levels(
        self,
        layer: int,
        tokens: dict[int, int],
        ids: np.ndarray,
        weights: np.ndarray,
        prefill: bool,
        choice: Choice | None,
    ) -> dict[int, int]:
        """Each blob of level 0 replaced by that of the level at which it runs; those not worth a load are left out."""
        lost, slots, bank = self.lost[prefill][layer], self._tier.slots, self._bank
        share = summed(ids, weight_shares(ids, weights))
        begin = layer * self._experts
        blobs = list(tokens)
        if not self._precision.by_score:
            chosen = [self.home[blob] for blob in blobs]
        else:
            assert choice is not None
            wanted = self._precision.wanted(blobs, choice)
            if len(wanted) != len(blobs):
                raise PolicyError(f"policy/precision wants {len(wanted)} levels for {len(blobs)} experts.")
            chosen = []
            if self._precision.nested:
                self._read = dict(zip(blobs, wanted, strict=True))
                lost[LOW] += sum(share.get(blob - begin, 0.0) for blob, level in self._read.items() if level)
                return tokens
            for blob, level in zip(blobs, wanted, strict=True):
                here = [blob + bank * n for n in range(min(level + 1, self._levels)) if slots[blob + bank * n]]
                if here:
                    chosen.append(here[0])
                else:
                    chosen.append(blob + bank * level if level < self._levels else -1)
        result = {}
        for blob, at in zip(blobs, chosen, strict=True):
            weight = share.get(blob - begin, 0.0)
            if at < 0:
                lost[DROPPED] += weight
                continue
            if at >= bank:
                lost[LOW] += weight
            result[at] = tokens[blob]
        return result
