"""From how many tokens on copying an expert is quicker than running it on the host CPU, by the costs of a run."""

from __future__ import annotations

from experiments.catalogue import load
from hwmodels import Platform
from simulator.engine import PS_PER_S
from simulator.model import ModelSpec
from simulator.runtime.costs import ExpertCosts

MOST_TOKENS = 4096


def crossover_tokens(platform: str, model: str, pinned: bool = False) -> float:
    """Fewest tokens for which copy and GPU together are quicker than the CPU; MOST_TOKENS if there are none.

    platform, model: presets; pinned: whether host memory is.
    """
    machine = Platform.from_mapping(load("platform", platform), platform)
    spec = ModelSpec.from_mapping(load("model", model))
    assert machine.cpu is not None
    (worker,) = machine.workers
    on_cpu, on_gpu = (ExpertCosts(spec, [spec.expert_bytes], machine.device(name)) for name in (machine.cpu, worker))
    rate = min(rate for _, rate in machine.media(machine.home, worker, pinned))
    latency_s = sum(link.latency_s for link in machine.route(machine.home, worker))
    copy_ps = (latency_s + spec.expert_bytes / rate) * PS_PER_S
    low, high = 1, MOST_TOKENS
    while low < high:
        tokens = (low + high) // 2
        if on_cpu.alone_ps(0, tokens) > copy_ps + on_gpu.together(0, (tokens,))[0]:
            high = tokens
        else:
            low = tokens + 1
    return float(low)
