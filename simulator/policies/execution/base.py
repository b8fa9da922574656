"""Role `execution`: where each missing expert runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from simulator.policies.base import Policy


class ExecutionPolicy(Policy):
    """Called with the experts of a layer that are not in the worker's memory.

    split(misses, tokens)  `misses` in order of access; `tokens[blob]`: tokens it serves. Returns
                           (to fetch and run here, to run on the host CPU where they lie).
    uses_cpu               whether `split` may name any for the CPU
    """

    uses_cpu = False

    def split(self, misses: Sequence[int], tokens: Mapping[int, int]) -> tuple[Sequence[int], Sequence[int]]:
        raise NotImplementedError
