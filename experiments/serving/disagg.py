"""Rows whose prompts are processed on other GPUs than their answers, from what their columns say.

Most such rows say neither how many requests are under way nor how many instances serve them. Then a rank decodes the
engine's typical number of sequences, and a prompt waits the engine's typical time; both are fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import floor

from experiments.serving.costs import request_cost
from experiments.serving.engines import Engine
from experiments.serving.rows import Row
from simulator.serving import Framework


def apart(row: Row, engine: Engine, framework: Framework, devices: Mapping[str, str]) -> tuple[float, float]:
    """Seconds of TTFT and TPOT.

    TPOT: a step that only decodes. TTFT: the request, its launches and a lone prompt's step, together `ttft` times, and
    the cache's way over one NIC per GPU.
    """
    decode, prompt = request_cost(row, devices), request_cost(row, devices, prompt=True)
    each = row.requests / row.layout.attention_dp if row.requests else engine.disagg["sequences"]
    busy = max(min(each, float(floor(decode.room))), 1.0)
    tpot_s = decode.plain_s(busy, framework)
    own_s = framework.prompt * prompt.prompt_s(0.0, row.isl) + framework.step_s
    before_s = framework.request_s + framework.launch_s * prompt.launches
    return engine.disagg["ttft"] * (before_s + own_s) + decode.cache_s, tpot_s
