"""`--dry-run`: the resolved configuration, whether it fits, and what running it would take on this machine."""

from __future__ import annotations

import copy
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from experiments.explain import ConfigError
from experiments.run import run_config, scenario_from_config, trace_of
from experiments.table import seconds, size

if TYPE_CHECKING:
    from simulator.result import Result

PROBES = 3
PROBE_TOKENS = 128
STEP_BYTES = 500  # of records and tables for each step, docs/performance.md


def describe(configs: Sequence[dict[str, Any]], workers: int = 1) -> str:
    """YAML of the first configuration, after comments on the simulated memories and this machine's time and memory.

    A few of the configurations are run for PROBE_TOKENS tokens of one request to see how fast this machine is.
    Raises the one-sentence errors of building the first one.
    """
    from simulator.build import build
    from simulator.pools.serve import build_pools

    first = configs[0]
    lines = []
    scenario = scenario_from_config(first)
    runs = [build(scenario)] if scenario.pools is None else build_pools(scenario)
    for memory, capacity in ((m, m.capacity_bytes) for run in runs for m in run.memories):
        lines.append(
            f"# simulated memory of {memory.device}: dense weights {size(memory.dense_bytes)}, KV cache up to"
            f" {size(memory.kv_bytes)}, workspace {size(memory.workspace_bytes)}, experts {size(memory.cache_bytes)};"
            f" {size(capacity)} in all"
        )
    lines += [f"# remark: {remark}" for remark in dict.fromkeys(remark for run in runs for remark in run.remarks)]
    tokens = [tokens_of(config) or 0 for config in configs]
    total = sum(tokens)
    token_s, fixed_s = _probe([configs[place] for place in _spread(len(configs))])
    cpu_s = total * token_s + fixed_s * len(configs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    peak += max(tokens) * STEP_BYTES
    shared = f" ({workers} processes)" if workers > 1 else ""
    lines.append(
        f"# this machine: {len(configs):,} {'run' if len(configs) == 1 else 'runs'} of {total:,} tokens in all; about"
        f" {seconds(cpu_s / workers)}{shared} if it is idle, and {size(peak * workers)} of memory"
    )
    body = OmegaConf.create({key: value for key, value in first.items() if key != "out"})
    lines.append(OmegaConf.to_yaml(body).rstrip())
    return "\n".join(lines)


def _spread(count: int) -> list[int]:
    """Up to PROBES places, evenly over `count`."""
    return sorted({round(number * (count - 1) / max(1, PROBES - 1)) for number in range(PROBES)})


def _probe(configs: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """(cpu-seconds a token, cpu-seconds a run) from short runs of one request, of one token and of some."""
    times = []
    for tokens in (1, 1 + PROBE_TOKENS):  # the first also warms caches
        spent = 0.0
        for config in configs:
            short = copy.deepcopy(config)
            short["workload"] |= {"requests": 1, "warmup_requests": 0, "max_decode_tokens": tokens}
            scenario_from_config(short)
            _run(short)
            begin = time.process_time()
            _ = _run(short).summary
            spent += time.process_time() - begin
        times.append(spent / len(configs))
    token_s = max(1e-6, (times[1] - times[0]) / PROBE_TOKENS)
    return token_s, max(0.0, times[0] - token_s)


def _run(config: dict[str, Any]) -> Result:
    try:
        return run_config(config)
    except SystemExit as error:  # of a policy of somebody's own
        raise ConfigError(f"a policy left the program (exit code {error.code}); it must return instead.") from None


def tokens_of(cfg: Mapping[str, Any]) -> int | None:
    """Tokens a run will process, from the request table; None if the run will be refused."""
    from simulator.plan import Plan, Workload

    try:
        return Plan(trace_of(cfg), Workload(**cfg["workload"]), np.random.SeedSequence(cfg["seed"])).tokens
    except ValueError:  # of the trace, the workload or the seed
        return None
