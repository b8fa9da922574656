"""Corner cases where two rules meet."""

from functools import partial

import numpy as np

from hwmodels import Platform
from simulator.engine import NEVER, Fabric, Lane, Medium, Transfer, seconds
from simulator.engine.fabric import LANDED
from simulator.plan import Workload
from simulator.policies.cache.belady import Belady
from simulator.policies.cache.lru import Lru
from simulator.policies.execution.cpu_in_place import CpuInPlace
from simulator.policies.prediction.base import PredictionPolicy
from simulator.policies.prediction.oracle import OraclePrediction
from tests.helpers import EXPERT_BYTES, random_trace, run, system, tiny_model, tiny_platform, tiny_trace


def test_a_prefetch_that_lands_during_the_last_step_is_in_the_books():
    class AlwaysExpertThree(PredictionPolicy):
        def guess(self, rows, following):
            guesses = np.full((rows.tokens, 2, 1), -1)
            guesses[:, 1] = 3
            return guesses

    for stepwise in (False, True):
        result = run(
            tiny_model(2, 4, 1),
            tiny_trace([[[[0], [1]]]]),
            tiny_platform(link_bytes_per_s=1e10, launch_s=1e-5),
            system(prediction=AlwaysExpertThree),
            cache_bytes=8 * EXPERT_BYTES,
            stepwise=stepwise,
        )
        assert result.links.delivered_bytes.sum() == 3 * EXPERT_BYTES  # two on demand, one ahead


def test_time_does_not_go_back_when_two_flows_end_together_and_a_faster_one_follows():
    fabric = Fabric(log=[])
    dram = fabric.add_medium(Medium("dram", 9))
    cpu = fabric.add_lane(Lane("cpu experts", [dram]))
    copier = fabric.add_lane(Lane("dram->gpu", [dram]))
    slow, fast, copy = Transfer(0, 1, True, 3), Transfer(1, 5, True), Transfer(2, 2, True)
    fabric.submit_all(cpu, [slow, fast], 0)  # one byte at 3 B/s
    fabric.submit(copier, copy, 0)  # two bytes at 6 B/s: the same third of a second
    while fabric.next_ps < NEVER:
        fabric.advance(fabric.next_ps)
    ends = [entry[4] for entry in fabric.log]
    assert ends == sorted(ends)
    assert slow.landed_ps == copy.landed_ps == 333_333_333_334


def test_the_reference_does_not_pay_for_latency_that_a_reader_with_several_threads_hides():
    phone = Platform.from_mapping(
        {
            "name": "phone",
            "workers": ["cpu"],
            "home": "ssd",
            "devices": {
                "cpu": {
                    "kind": "cpu",
                    "memory": "dram",
                    "peak_flop_per_s": {"fp32": 1e12},
                    "launch_overhead_s": 1e-6,
                    "source": "test",
                },
                "dram": {
                    "kind": "dram",
                    "memory_capacity_bytes": 10**9,
                    "memory_read_bytes_per_s": 1e10,
                    "source": "test",
                },
                "ssd": {
                    "kind": "ssd",
                    "memory_capacity_bytes": 10**9,
                    "memory_read_bytes_per_s": 1e9,
                    "memory_latency_s": 8e-5,
                    "source": "test",
                },
            },
            "links": [
                {"name": "ufs", "kind": "bus", "a": "dram", "b": "ssd", "bandwidth_bytes_per_s": 1e12, "source": "test"}
            ],
        }
    )
    trace = random_trace(0, 2, 6, 2, 4, 2)
    result = run(tiny_model(), trace, phone, system(prediction=OraclePrediction), cache_bytes=4 * EXPERT_BYTES)
    assert result.bounds.reference_duration_s is not None
    assert result.bounds.reference_duration_s <= seconds(result.duration_ps)


def test_there_is_no_reference_where_a_layer_asks_for_more_than_the_cache_holds():
    trace = tiny_trace([[[[0]], [[3]]], [[[1]], [[3]]], [[[2]], [[3]]]], 4)
    result = run(
        tiny_model(1, 4, 1),
        trace,
        tiny_platform(),
        system(cache=Belady),
        Workload(batch_size=3),  # the first step asks for three experts
        cache_bytes=2 * EXPERT_BYTES,
    )
    assert result.bounds.reference_duration_s is None
    assert result.bounds.physics_duration_s <= seconds(result.duration_ps)


def test_what_is_fetched_for_the_next_token_while_it_runs_on_the_cpu_stays_pinned():
    class Watchful(Lru):
        def victims(self, need_bytes, incoming, view):
            chosen = super().victims(need_bytes, incoming, view)
            slots = [view._tier.slots[blob] for blob in chosen]
            assert not any(isinstance(slot, Transfer) and slot.state != LANDED for slot in slots)
            return chosen

    ids = [[[[0], [1]], [[0], [2]], [[0], [3]], [[0], [1]]]]
    result = run(
        tiny_model(2, 4, 1),
        tiny_trace(ids),
        tiny_platform(link_bytes_per_s=1e8),
        system(cache=Watchful, execution=CpuInPlace, prediction=partial(OraclePrediction, 2)),
        cache_bytes=2 * EXPERT_BYTES,
    )
    assert sum(r.hits + r.late + r.loads + r.on_cpu for r in result.records) == 8
