"""What a system decides, one folder per role: see docs/policies.md for the hooks and their order."""

from simulator.policies.base import Policy, PolicyContext

__all__ = ["Policy", "PolicyContext"]
