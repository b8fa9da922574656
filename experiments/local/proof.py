"""The offloading loop beside the simulation of the same model, routing, cache and machine.

The loop's times decide nothing: the platform comes from the microbenchmarks alone. They and the loop take turns, so
that both see the same machine, and both figures are medians over the rounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from experiments.compose import compose_config
from experiments.local.loop import LoopRun, OffloadLoop, Shape
from experiments.local.machine import Machine, as_yaml
from experiments.run import scenario_from_config
from hwmodels.microbench_files import Reader, write_random
from simulator.policies.cache.lru import Lru
from traces import RequestTrace, TraceWriter, data_path, open_trace

if TYPE_CHECKING:
    import pandas as pd

    from simulator.result import Result

ROUTING = "olmoe_1b_7b"
IO_THREADS = 4
HOLDS = (0.25, 0.5, 0.75)  # of all experts


@dataclass(frozen=True)
class Plan:
    """How much the loop does: the first layers and tokens of the trace, caches by the number of experts they hold."""

    layers: int = 4
    tokens: int = 32
    capacities: tuple[int, ...] = ()
    hidden: int = 1024
    width: int = 512


class Proof:
    """Model, routing and files of a comparison; everything is written to `folder`."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        trace = open_trace(data_path(f"{ROUTING}.parquet"))
        meta, request = trace.meta, trace.request(0)
        self.shape = Shape(plan.layers, meta.num_experts, meta.top_k, plan.hidden, plan.width)
        total = plan.layers * meta.num_experts
        self.capacities = plan.capacities or tuple(round(total * share) for share in HOLDS)
        self.experts = request.experts[: plan.tokens, : plan.layers]
        self.positions = request.positions[: plan.tokens]
        self.file, self._folder = folder / "experts.bin", folder
        write_random(self.file, total * self.shape.expert_bytes)
        cut = dataclasses.replace(meta, layers=tuple(range(plan.layers)), digest="")
        self._trace = folder / "routing.parquet"
        with TraceWriter(self._trace, cut) as writer:
            phases = request.phases[: plan.tokens]
            writer.write(RequestTrace(id=0, positions=self.positions, phases=phases, experts=self.experts))
        self._model = folder / "model.yaml"
        self._model.write_text(yaml.safe_dump(self.model(), sort_keys=False))

    @staticmethod
    def size_bytes(plan: Plan) -> int:
        """Room that the files take, roughly."""
        experts = open_trace(data_path(f"{ROUTING}.parquet")).meta.num_experts
        return plan.layers * experts * 3 * plan.hidden * plan.width * 4 + 2**20

    def model(self) -> dict[str, Any]:
        """The loop's model as a model file."""
        shape = self.shape
        heads, size = shape.heads, shape.hidden // shape.heads
        return {
            "name": "offload_loop",
            "source": "the model of moesim calibrate local --prove, with random weights",
            "layers": shape.layers,
            "hidden": shape.hidden,
            "vocab": shape.vocab,
            "experts": shape.experts,
            "top_k": shape.top_k,
            "expert_intermediate": shape.width,
            "attention": {"full": {"heads": heads, "kv_heads": heads, "head_dim": size}},
            "default_bits": 32,
            "kv_bits": 32,
            "dtype": "fp32",
        }

    def loop(self, reader: Reader, machine: Machine) -> Callable[[int], LoopRun]:
        """What runs the loop with a cache of so many experts."""
        first = int(self.positions[0])
        contexts = first + len(self.experts)
        loop = OffloadLoop(self.shape, reader, machine.library, max(self.capacities), contexts)
        routing = self.experts.tolist()
        return lambda capacity: loop.run(routing, first, capacity)

    def simulate(self, platform: dict[str, Any], capacity: int) -> tuple[Result, list[tuple[list[int], list[bool]]]]:
        """The same on the platform: the result, and of each (token, layer) in order the blobs and which were hits."""
        from simulator.result import simulate

        file = self._folder / "platform.yaml"
        file.write_text(as_yaml(platform), encoding="utf-8")
        gib = capacity * self.shape.expert_bytes / 2**30
        overrides = [
            f"model='{self._model}'",
            f"platform='{file}'",
            f"trace='{self._trace}'",
            f"cache_gib={gib!r}",
            "system=on_demand_lru",
            f"settings.io_threads={IO_THREADS}",
            "reference=false",
        ]
        scenario = scenario_from_config(compose_config(overrides))
        seen: list[tuple[list[int], list[bool]]] = []
        system = dataclasses.replace(scenario.system, cache=lambda: _Watched(seen))
        return simulate(dataclasses.replace(scenario, system=system)), seen

    def same_hits(self, run: LoopRun, seen: Sequence[tuple[list[int], list[bool]]]) -> bool:
        """Whether the loop and the simulation asked for the same experts in the same order, with the same hits."""
        offsets = np.arange(self.shape.layers)[:, None] * self.shape.experts
        asked = (self.experts + offsets).reshape(-1, self.shape.top_k).tolist()
        return asked == [blobs for blobs, _ in seen] and run.hits == [hits for _, hits in seen]


class _Watched(Lru):
    """The simulator's LRU, which notes what was asked of it: blobs, and which were hits."""

    def __init__(self, seen: list[tuple[list[int], list[bool]]]) -> None:
        super().__init__()
        self._seen = seen

    def on_layer(self, blobs: Sequence[int], loads: Sequence[int], view: Any) -> None:
        self._seen.append((list(blobs), [blob not in loads for blob in blobs]))
        super().on_layer(blobs, loads, view)


def compare(proof: Proof, machine: Machine, runs: dict[int, list[LoopRun]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(a row for each cache size, a row for each size, round and token) of what the loop did and the simulation said.

    runs: by cache size, a run for each round. Times are seconds per token, medians of the rounds. `noise` is the
    distance of the quartiles of the rounds as a share of their median; `delayed_s` is how long the loop was ready to
    run while other processes ran; `error` is that of the prediction, `error_undelayed` the same beside the measured
    time without those delays, which the simulation does not know of.
    """
    import pandas as pd

    platform = machine.mapping()
    summary, rows = [], []
    for capacity, rounds in runs.items():
        result, seen = proof.simulate(platform, capacity)
        steps = result.steps
        for number, run in enumerate(rounds):
            columns = {
                "measured_s": run.token_s,
                "measured_waiting_s": run.waited_s,
                "measured_delayed_s": run.delayed_s,
                "measured_bytes": run.bytes_read,
                "simulated_s": steps.latency_s,
                "simulated_bytes": steps.load_bytes,
            }
            index = {"cache_experts": capacity, "round": number, "token": range(len(run.token_s))}
            rows.append(pd.DataFrame({**index, **columns}))
        means = [float(np.mean(run.token_s)) for run in rounds]
        delays = [float(np.mean(run.delayed_s)) for run in rounds]
        measured, undelayed = float(np.median(means)), float(np.median(np.subtract(means, delays)))
        low, high = np.percentile(means, (25, 75))
        predicted = float(steps.latency_s.mean())
        per_token = [int(size) for size in steps.load_bytes]
        summary.append(
            {
                "cache_experts": capacity,
                "cache_bytes": capacity * proof.shape.expert_bytes,
                "hit_rate": float(np.mean([hits for _, hits in seen])),
                "same_hits": all(proof.same_hits(run, seen) for run in rounds),
                "same_bytes": all(run.bytes_read == per_token for run in rounds),
                "bytes_per_token": sum(per_token) / len(per_token),
                "measured_s": measured,
                "noise": float(high - low) / measured,
                "measured_least_s": min(means),
                "measured_most_s": max(means),
                "delayed_s": float(np.median(delays)),
                "predicted_s": predicted,
                "error": predicted / measured - 1,
                "error_undelayed": predicted / undelayed - 1,
            }
        )
    return pd.DataFrame(summary), pd.concat(rows, ignore_index=True)
