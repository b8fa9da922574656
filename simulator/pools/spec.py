"""What pools there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simulator.layout_choice import LayoutChoice

if TYPE_CHECKING:
    from simulator.policies.scheduling.base import SchedulingPolicy

NAMES = ("prefill", "decode", "aggregated")


@dataclass(frozen=True)
class Pool:
    """Replicas of one layout.

    replicas: how many copies of the layout, each on layout.gpus GPUs of its own; layout: of each replica; scheduling:
    parameters of policy/scheduling that differ in this pool (None: the choice as it is).
    """

    replicas: int = 1
    layout: LayoutChoice = field(default_factory=LayoutChoice)
    scheduling: Callable[[], SchedulingPolicy] | None = None

    @property
    def gpus(self) -> int:
        """Of all replicas; 0 where the layout does not say."""
        return self.replicas * (self.layout.gpus or 0)


@dataclass(frozen=True)
class Pools:
    """Either `prefill` and `decode`, or `aggregated` alone. The first workers of the platform are those of `prefill`,
    replica after replica; those of `decode` follow.

    prefill: runs prompts, up to the first token; decode: all further tokens; aggregated: whole requests; dealing: which
    replica a request goes to (in decoding, which attention group of which replica), in_turn or fewest_tokens: the one
    that was given the fewest prompt tokens so far.
    """

    prefill: Pool = field(default_factory=Pool)
    decode: Pool = field(default_factory=Pool)
    aggregated: Pool = field(default_factory=Pool)
    dealing: str = "in_turn"

    @property
    def used(self) -> dict[str, Pool]:
        """The pools that there are, by name."""
        if self.aggregated != Pool():
            return {"aggregated": self.aggregated}
        return {"prefill": self.prefill, "decode": self.decode}

    @property
    def gpus(self) -> int:
        """Of all pools."""
        return sum(pool.gpus for pool in self.used.values())
