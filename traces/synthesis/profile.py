"""Stand-ins: models drawn from a handful of parameters that were fitted to published figures."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.special import ndtri

from traces.schema import TraceError
from traces.synthesis.gate import GateProfile
from traces.synthesis.model import DECAYS, RequestModel, RoutingModel
from traces.synthesis.rescale import rescale

FOLDER = Path(__file__).parent / "profiles"
KINDS = 16
RULES = ("renormalised", "softmax")


@dataclass(frozen=True)
class Parameters:
    """How strong each structure is.

    load_spread      standard deviation of the experts' log-popularity, which is normal
    request_spread   standard deviation of what the kind of a request adds to it
    coupling         standard deviation of what all choices of the layer before add together
    stickiness       0 … 1: the odds of an expert that the token before chose are 1 / (1 - stickiness) times as high
    memory           exponent of a request's own past use of an expert; 0: none, 1: Polya's urn
    """

    load_spread: float = 0.0
    request_spread: float = 0.0
    coupling: float = 0.0
    stickiness: float = 0.0
    memory: float = 0.0


@dataclass(frozen=True)
class Profile:
    """A profile file: the shape, the parameters, and the published figures they rest on.

    gate      `rule`: renormalised or softmax, `sharpness`: a number or one per layer (see `GateProfile`)
    rests_on  what kind of evidence the parameters were fitted to
    base      another profile, in place of parameters, brought to this shape: the model has no evidence of its own
    """

    name: str
    model: str
    layers: tuple[int, ...]
    experts: int
    top_k: int
    tokens: int
    seed: int
    parameters: Parameters
    evidence: tuple[dict[str, Any], ...]
    note: str = ""
    gate: dict[str, Any] | None = None
    rests_on: str = "published figures"
    base: str | None = None

    @property
    def origin(self) -> str:
        """What the stand-in rests on, as traces and the remarks of runs say it."""
        if self.base is None:
            return f"{self.rests_on} (profile {self.name})"
        return f"the figures of {self.base}, rescaled; no evidence of its own (profile {self.name})"


def profile_names() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str | os.PathLike[str]) -> Profile:
    """The shipped profile of that name, or the YAML file at that path.

    Raises TraceError naming the file and the key if there is none or a value is not what it must be.
    """
    text = os.fspath(name)
    path = Path(text) if text.endswith((".yaml", ".yml")) else FOLDER / f"{text}.yaml"
    if not path.is_file():
        raise TraceError(
            f"{text}: there is no such profile; expected a YAML file or one of {', '.join(profile_names())}."
        )
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise TraceError(f"{path.name}: a profile must be readable YAML.") from None
    return _checked(raw, path)


def read_profile(name: str | os.PathLike[str]) -> RoutingModel:
    """The model that a profile describes; raises as `load_profile`."""
    return draw_model(load_profile(name))


def _checked(raw: Any, path: Path) -> Profile:
    def need(condition: bool, key: str, expected: str) -> None:
        if not condition:
            raise TraceError(f"{path.name}: '{key}' must be {expected}.")

    known = {"model", "layers", "experts", "top_k", "tokens", "seed", "parameters", "evidence", "note", "first_layer"}
    known |= {"gate", "rests_on", "base"}
    need(isinstance(raw, dict), "profile", "a mapping")
    for key in raw:
        need(key in known, str(key), f"one of the keys {', '.join(sorted(known))}")
    need(isinstance(raw.get("model"), str), "model", "a name")
    for key, least in (("layers", 1), ("experts", 1), ("top_k", 1), ("tokens", 1), ("seed", 0), ("first_layer", 0)):
        value = raw.setdefault(key, 0) if least == 0 else raw.get(key)
        need(type(value) is int and value >= least, key, f"an integer of at least {least}")
    need(raw["top_k"] <= raw["experts"], "top_k", "at most the number of experts")
    base, strengths = raw.get("base"), raw.get("parameters")
    if base is not None:
        need(base in profile_names() and base != path.stem, "base", f"one of {', '.join(profile_names())}")
        need(strengths is None and "rests_on" not in raw, "base", "without 'parameters' and 'rests_on'")
        strengths = {}
    names = [field.name for field in fields(Parameters)]
    need(isinstance(strengths, dict) and set(strengths) <= set(names), "parameters", f"a mapping of {', '.join(names)}")
    for key, value in strengths.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        need(number and value >= 0, f"parameters.{key}", "a number of at least 0")
    need(strengths.get("stickiness", 0) <= 1, "parameters.stickiness", "from 0 to 1")
    evidence = raw.get("evidence") or []
    need(
        isinstance(evidence, list) and all(isinstance(row, dict) for row in evidence), "evidence", "a list of mappings"
    )
    need(isinstance(raw.get("rests_on", ""), str), "rests_on", "a text")
    _check_gate(raw.get("gate"), raw["layers"], need)
    first = raw["first_layer"]
    return Profile(
        name=path.stem,
        model=raw["model"],
        layers=tuple(range(first, first + raw["layers"])),
        experts=raw["experts"],
        top_k=raw["top_k"],
        tokens=raw["tokens"],
        seed=raw["seed"],
        parameters=Parameters(**strengths),
        evidence=tuple(evidence),
        note=str(raw.get("note", "")),
        gate=raw.get("gate"),
        rests_on=raw.get("rests_on", "published figures"),
        base=base,
    )


def _check_gate(gate: Any, layers: int, need: Callable[[bool, str, str], None]) -> None:
    if gate is None:
        return
    need(isinstance(gate, dict) and set(gate) == {"rule", "sharpness"}, "gate", "a mapping of rule and sharpness")
    need(gate["rule"] in RULES, "gate.rule", f"one of {', '.join(RULES)}")
    values = gate["sharpness"] if isinstance(gate["sharpness"], list) else [gate["sharpness"]] * layers
    known = all(type(value) in (int, float) and math.isfinite(value) and value >= 0 for value in values)
    need(known and len(values) == layers, "gate.sharpness", f"a number of at least 0, or {layers} (one per layer)")


def draw_model(profile: Profile) -> RoutingModel:
    """The model of a profile; its tables are drawn with the profile's seed, so it is always the same."""
    model = _drawn(profile) if profile.base is None else _rescaled(profile, load_profile(profile.base))
    if profile.gate is None:
        return model
    sharpness = np.broadcast_to(np.array(profile.gate["sharpness"], dtype=np.float64), len(profile.layers))
    return dataclasses.replace(model, gate=GateProfile(sharpness, profile.gate["rule"] == "renormalised"))


def _rescaled(profile: Profile, base: Profile) -> RoutingModel:
    shape = {"layers": len(profile.layers), "experts": profile.experts, "top_k": profile.top_k}
    model = rescale(draw_model(base), seed=profile.seed, **shape)
    requests = dataclasses.replace(model.requests, tokens=np.full(KINDS, profile.tokens))
    return dataclasses.replace(
        model, model=profile.model, layers=profile.layers, requests=requests, origin=profile.origin
    )


def _drawn(profile: Profile) -> RoutingModel:
    layers, experts, top_k = len(profile.layers), profile.experts, profile.top_k
    strength, rng = profile.parameters, np.random.default_rng(profile.seed)
    quantiles = ndtri((np.arange(experts) + 0.5) / experts)
    bias = strength.load_spread * np.stack([rng.permutation(quantiles) for _ in range(layers)])
    kind = strength.request_spread * rng.standard_normal((KINDS, layers, experts))
    coupling = rng.standard_normal((layers, experts, experts), dtype=np.float32)
    coupling -= coupling.mean(axis=1, keepdims=True)  # so that it moves no expert's popularity
    coupling *= np.float32(strength.coupling / math.sqrt(top_k))
    coupling[0] = 0.0
    odds = math.inf if strength.stickiness == 1 else -math.log1p(-strength.stickiness)
    shares = np.exp(bias - bias.max(axis=1, keepdims=True))
    use = np.minimum(shares / shares.sum(axis=1, keepdims=True) * top_k, 1.0)
    memory = np.zeros((layers, len(DECAYS)))
    memory[:, DECAYS.index(1.0)] = strength.memory
    bias -= memory.sum(axis=1, keepdims=True) * np.log(use)  # the memory starts at `use` and so counts it already
    requests = RequestModel(kinds=rng.permutation(KINDS), tokens=np.full(KINDS, profile.tokens), tasks=(None,) * KINDS)
    return RoutingModel(
        model=profile.model,
        layers=profile.layers,
        bias=bias.astype(np.float32),
        use=use.astype(np.float32),
        kind=kind.astype(np.float32),
        coupling=coupling,
        sticky=np.full((layers, top_k), odds, dtype=np.float32),
        kind_sticky=np.zeros((layers, KINDS), dtype=np.float32),
        memory=memory.astype(np.float32),
        requests=requests,
        native_top_k=top_k,
        origin=profile.origin,
    )
