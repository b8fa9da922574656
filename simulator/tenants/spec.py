"""How many instances there are, and what they share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tenants:
    """Instances of the model in a run.

    count: instances of the model; unique_experts: of each one in every routed layer, the last ones by number;
    deduplicate: experts that are the same are stored once (else every instance has copies of all of them);
    merged_steps: one engine, whose steps hold tokens of all instances (else one engine each, with a workspace of its
    own, that take turns on the GPU, a step at a time); fused_gate: the routers of all instances in a step are one
    launch.
    """

    count: int = 1
    unique_experts: int = 0
    deduplicate: bool = True
    merged_steps: bool = True
    fused_gate: bool = True

    @property
    def engines(self) -> int:
        """How many engines run, each with a workspace."""
        return 1 if self.merged_steps else self.count
