"""Runs a few scenarios and prints their summaries: `python -m tests.limits.hash_seed`."""

from __future__ import annotations

import json
from functools import partial

from simulator.plan import Workload
from simulator.policies.cache.belady import Belady
from simulator.policies.cache.lfu import Lfu
from simulator.policies.cache.random_eviction import RandomEviction
from simulator.policies.prediction.oracle import OraclePrediction
from simulator.policies.prediction.recall import RecallPrediction
from simulator.policies.prediction.transition import TransitionPrediction
from tests.helpers import EXPERT_BYTES, random_trace, run, steps_of, system, tiny_model, tiny_platform


def main() -> None:
    """Print one JSON document."""
    out = []
    for workers, home, cache, prediction in (
        (1, "dram", RandomEviction, partial(RecallPrediction, 0.6)),
        (1, "ssd", Lfu, TransitionPrediction),
        (2, "dram", Belady, OraclePrediction),
    ):
        result = run(
            tiny_model(3, 6, 2),
            random_trace(11, 5, 8, 3, 6, 2, prompt=3),
            tiny_platform(workers, home=home),
            system(cache=cache, prediction=prediction),
            Workload(requests=4, batch_size=2),
            cache_bytes=6 * EXPERT_BYTES,
        )
        out.append([result.summary, result.run.fabric.log, steps_of(result)])
    print(json.dumps({"summaries": out}))


if __name__ == "__main__":
    main()
