"""Keys and values that are written slower than they are read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.policies.placement.popular import PopularFirst
from tests.helpers import random_trace, run, system, tiny_model, tiny_platform


@pytest.mark.parametrize("share", [1.0, 0.5, 0.01])
def test_a_token_takes_longer_by_its_keys_and_values(share) -> None:
    model, trace, platform = tiny_model(2, 4, 2), random_trace(0, 1, 6, 2, 4, 2, prompt=3), tiny_platform()
    gpu = platform.device("gpu0")
    read = gpu.memory_read_bytes_per_s
    slow = replace(platform, devices={**platform.devices, "gpu0": replace(gpu, memory_write_bytes_per_s=share * read)})
    plain, made = (
        [r.end_ps - r.start_ps for r in run(model, trace, machine, system(placement=PopularFirst)).records]
        for machine in (platform, slow)
    )
    key_and_value = 2 * 2 * 16 * 2  # of 2 heads of 16, in two bytes
    for before, after, tokens in zip(plain, made, [3, 1, 1, 1], strict=True):
        longer_s = tokens * 2 * key_and_value * (1 / (share * read) - 1 / read)
        assert after - before == pytest.approx(longer_s * 1e12, abs=4)
