"""What the claims of MoE-Deploy state without a run."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.optimize import minimize_scalar

import experiments
from experiments.validation.published.deploy import (
    activation_bytes,
    dense_step_s,
    most_batch,
    scenario,
    throughput_gain,
)

CLAIMS = Path(experiments.__file__).parent / "validation/claims/serving/moe_deploy.yaml"
DENSE = [  # model, requests, tokens of each, context, published seconds of the dense model on one V100
    ("lm_moe_52b", 8, 512, 512, 0.0742),
    ("mt_moe_54b_encoder", 48, 40, 40, 0.101),
    ("mt_moe_54b_decoder", 48, 1, 20, 0.032),
]


def test_the_time_that_software_adds_is_the_least_squares_fit_to_the_dense_latencies():
    ours = np.array([dense_step_s([f"model={row[0]}", "platform=v100_x8"], *row[1:4]) for row in DENSE])
    published = np.array([row[4] for row in DENSE])
    best = minimize_scalar(
        lambda layer_s: (np.log((ours + 24 * layer_s) / published) ** 2).sum(), bounds=(0, 0.01), method="bounded"
    )
    stated = yaml.safe_load(CLAIMS.read_text())["lists"]
    added = [float(key.split("=")[1]) for row in stated[:3] for key in row if key.startswith("settings.framework")]
    assert added == pytest.approx([2 * best.x, 4 * best.x, 4 * best.x], rel=0.002)  # routed: each second, each fourth
    with_software = dense_step_s([f"model={DENSE[0][0]}", "platform=v100_x8"], *DENSE[0][1:4], layer_s=best.x)
    assert with_software == pytest.approx(ours[0] + 24 * best.x)


def test_the_largest_batch_is_the_last_whose_activations_fit():
    overrides = ["model=tiny_moe", "trace=tiny_moe", "platform=v100_x8", "policy/pipeline=static_capacity"]
    parts = scenario(overrides)
    dense, (_, experts) = parts.model.dense_bytes, parts.model.parts()["routed_experts"]
    room = parts.platform.device("gpu0").memory_capacity_bytes - dense - experts / 8
    batch = int(most_batch(overrides, 1024, step=1))
    assert activation_bytes(overrides, 1024 * batch) <= room < activation_bytes(overrides, 1024 * (batch + 1))
    assert most_batch([*overrides[:3], "policy/pipeline=dynamic_gating"], 1024, step=1024) > batch


def test_the_best_of_some_runs_over_the_best_of_others():
    class Ran:
        def __init__(self, rate):
            self.summary = {"rate": rate}

    runs = {"a": Ran(2.0), "b": Ran(6.0), "c": Ran(3.0), "d": Ran(1.0)}
    assert throughput_gain(runs, ["a", "b"], ["c", "d"], "rate") == 2.0
