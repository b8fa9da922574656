"""Role `precision`: at which precision an expert is kept, loaded and run."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.policies.base import Policy
from simulator.routing import Choice


class PrecisionPolicy(Policy):
    """An expert exists at one or more levels of precision, each a blob of its own.

    bits     stored bits per weight of each level, scales included, best first; None: as the model stores it
    shares   fraction of every memory's budget for each level; None: all levels share it
    level(layer, expert)    the level at which it is loaded, unless `wanted` says otherwise
    wanted(blobs, choice)   only if `by_score`: after the look-up could be made, for each of `blobs` (level 0,
                            in order of access) the level that is good enough, len(bits): not worth a load.
                            An expert that is here, or coming, at that level or a better one is used as it is.
                            Needs a platform of one worker.
    nested   a worse level is a part of the bytes of a better one: experts are kept and loaded at level 0 alone, and
             `wanted` says how much of them is read when they run; only if `by_score`
    """

    bits: Sequence[float | None] = (None,)
    shares: Sequence[float] | None = None
    by_score = False
    nested = False
    hooks = (("wanted", "by_score"),)

    def level(self, layer: int, expert: int) -> int:
        return 0

    def wanted(self, blobs: Sequence[int], choice: Choice) -> Sequence[int]:
        raise NotImplementedError
