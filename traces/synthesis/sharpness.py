"""The sharpness of gates from published figures on weights, and these figures of what a stand-in draws."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq

from traces.synthesis.gate import GateProfile
from traces.synthesis.model import RoutingModel

STATISTICS = ("second_weight_below", "weight_top_share", "weight_sum")
SMALLEST, LARGEST = 0.01, 5.0


def gate_statistic(row: dict[str, Any], model: RoutingModel, requests: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """What `row` names, by layer [L], of drawn requests [tokens, L, k] each and the weights that the gate gives them.

    second_weight_below  share of tokens whose second weight is below `threshold` (a number or one for each layer)
    weight_top_share     the heaviest of the chosen over the sum of the first `of` (default: all) of them
    weight_sum           sum of the weights
    """
    assert model.gate is not None
    experts, rng = np.concatenate(requests), np.random.default_rng(seed)
    weights = model.gate.weights(model.gate.probabilities(experts, model.use, rng), experts)
    if row["statistic"] == "second_weight_below":
        return np.asarray((weights[:, :, 1] < np.asarray(row["threshold"])).mean(axis=0))
    if row["statistic"] == "weight_sum":
        return np.asarray(weights.sum(axis=2).mean(axis=0))
    some = weights[:, :, : row.get("of")]
    return np.asarray((some[:, :, 0] / some.sum(axis=2)).mean(axis=0))


def fit_sharpness(row: dict[str, Any], model: RoutingModel, requests: Sequence[np.ndarray], seed: int) -> list[float]:
    """Sharpness of each layer that gives the published figure of `row`: `by_layer` if it has that, else one for all."""
    if row["statistic"] == "second_weight_below" and "by_layer" in row:
        shares = model.use / model.use.sum(axis=1, keepdims=True, dtype=np.float64)
        thresholds = np.broadcast_to(row["threshold"], len(shares))
        rows = zip(shares, thresholds, row["by_layer"], strict=True)
        return [round(_from_second(share, below, wanted), 4) for share, below, wanted in rows]

    def off(sharpness: float) -> float:
        gate = GateProfile(np.full(len(model.layers), sharpness), model.gate is None or model.gate.renormalised)
        trial = dataclasses.replace(model, gate=gate)
        return float(gate_statistic(row, trial, requests, seed).mean()) - row["value"]

    return [round(float(brentq(off, SMALLEST, LARGEST, xtol=1e-4)), 4)]


def _from_second(share: np.ndarray, threshold: float, wanted: float) -> float:
    """The sharpness at which a share `wanted` of tokens has a second weight below `threshold`.

    With w2 / w1 = (A1 / A2)^sharpness and arrival times A of a race, A2 / A1 exceeds r with probability
    1 / (1 + (r - 1) (1 - p)) if the first comer's rate is p; averaged over first comers.
    """

    def off(log_ratio: float) -> float:
        late = share / (1.0 + np.expm1(log_ratio) * (1.0 - share))
        return math.log(late.sum()) - math.log(wanted)

    log_ratio = float(brentq(off, 1e-9, 100.0))
    return math.log((1.0 - threshold) / threshold) / log_ratio
