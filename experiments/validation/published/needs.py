"""What presets need of a trace, and which shipped traces hold it. No trace is drawn for this."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.catalogue import load
from experiments.compose import choices
from experiments.policy import policy_class
from experiments.run import plain, trace_path, trace_recipe
from simulator.policies.gating.predicted import PredictedRouting
from simulator.policies.prediction.lookahead import LookaheadPrediction
from traces import open_trace
from traces.synthesis.profile import Profile, load_profile

# Choices for `moesim run`, the defaults first; a page takes the first whose trace holds what the preset needs.
LINES = {
    "gpt_oss_20b": "",
    "mixtral_8x7b": "trace=mixtral_8x7b model=mixtral_8x7b platform=a100_host cache_gib=24",
    "tiny_moe": "trace=tiny_moe model=tiny_moe",
}


class Held(NamedTuple):
    """Of the router, beside the experts that were chosen. guesses: how many layers ahead."""

    guesses: int = 0
    weights: bool = False
    probabilities: bool = False

    def covers(self, other: Held) -> bool:
        """Whether all of `other` is there."""
        return all(own >= asked for own, asked in zip(self, other, strict=True))

    def words(self) -> str:
        """Such as "look-ahead guesses of one layer and gate weights"; empty for nothing."""
        ahead = "one layer" if self.guesses == 1 else f"{self.guesses} layers"
        parts = [f"look-ahead guesses of {ahead}"] if self.guesses else []
        parts += ["gate weights"] if self.weights else []
        parts += ["router probabilities"] if self.probabilities else []
        return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


@functools.cache
def shipped() -> dict[str, Held]:
    """Name -> what it holds, of every choice of `conf/trace`."""
    found = {}
    for name in choices()["trace"]:
        node = plain(load("trace", name))
        recipe = trace_recipe(node)
        if recipe is None:
            meta = open_trace(trace_path(node)).meta
            found[name] = Held(meta.guess_distances, meta.has_weights, meta.has_probabilities)
        else:
            ahead = len(recipe.guesses["recall"]) if recipe.guesses else 0
            found[name] = Held(ahead, _has_gate(recipe.content()), recipe.probabilities)
    return found


def _has_gate(profile: Profile) -> bool:
    """Whether a trace of this profile has gate weights; one without parameters has those of its base."""
    return profile.gate is not None or (profile.base is not None and _has_gate(load_profile(profile.base)))


def needed(policies: Mapping[str, Mapping[str, Any]]) -> Held:
    """Without which a run of these policies (role -> class and parameters) is refused."""
    parts, guesses = set(), 0
    for role, values in policies.items():
        kind = policy_class(values["_target_"], role)
        parts |= set(kind.needs)
        if issubclass(kind, LookaheadPrediction):
            guesses = max(guesses, int(values.get("distance", 1)))
        if issubclass(kind, PredictedRouting):
            guesses = max(guesses, 1)
    return Held(guesses, "weights" in parts, "probabilities" in parts)


def line(name: str, need: Held) -> str:
    """The command that runs a preset. Raises LookupError if no trace of `LINES` holds what it needs."""
    for trace, overrides in LINES.items():
        if shipped()[trace].covers(need):
            return f"moesim run system={name} {overrides}".rstrip()
    raise LookupError(f"system {name} needs {need.words()}, which no trace of LINES holds.")


def sentence(need: Held) -> str:
    """Which shipped traces hold what is needed; empty where all do."""
    holding = [name for name, held in shipped().items() if held.covers(need)]
    if len(holding) == len(shipped()):
        return ""
    return f"It needs a trace with {need.words()}; of those that are shipped: {', '.join(f'`{n}`' for n in holding)}."
