"""Several instances on one machine: what memory holds, who meets whom in a step, what that costs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from hwmodels import Platform
from simulator.build import build
from simulator.model import ModelSpec
from simulator.plan import Workload
from simulator.policies.gating.base import GatingPolicy
from simulator.policies.gating.resident import ResidentOnly
from simulator.policies.placement.cold import ColdStart
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.prediction.lookahead import LookaheadPrediction
from simulator.policies.prediction.none import NoPrediction
from simulator.policies.prediction.transition import TransitionPrediction
from simulator.policies.scheduling.continuous import Continuous
from simulator.policies.scheduling.lockstep import Lockstep
from simulator.result import Result, simulate
from simulator.scenario import Scenario, ScenarioError, Settings
from simulator.served import PlanError
from simulator.tenants.identity import Identity
from simulator.tenants.spec import Tenants
from tests.helpers import (
    EXPERT_BYTES,
    counts,
    random_trace,
    shipped,
    steps_of,
    system,
    tiny_model,
    tiny_platform,
    tiny_trace,
)

MODEL = {"layers": 2, "experts": 4, "top_k": 2}
SEPARATE = {"deduplicate": False, "merged_steps": False, "fused_gate": False}
LAUNCH_PS = 1_000_000


def serve(tenants: Tenants, *, trace=None, workload=None, platform=None, roles=None, **settings) -> Result:
    trace = trace or random_trace(3, 8, 12, prompt=4, **MODEL)
    return simulate(
        Scenario(
            tiny_model(**MODEL),
            trace,
            platform or tiny_platform(),
            system(**{"scheduling": partial(Continuous, max_batch=8, token_budget=16), **(roles or {})}),
            workload or Workload(),
            Settings(**{"workspace_bytes": 0, "kv_page_tokens": 4, **settings}),
            tenants=tenants,
        )
    )


def requests_file(tmp_path, rows, header="arrival_s,tenant,trace_request"):
    path = tmp_path / "requests.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


# ---- identity and memory


def test_a_pool_holds_shared_experts_once_and_unique_ones_once_for_each_instance():
    identity = Identity(instances=3, experts=4, unique=1)
    assert identity.pool == 3 + 3 * 1
    assert identity.table.tolist() == [[0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 5]]
    assert identity.own(np.array([0, 4, 5, -1]), 1).tolist() == [0, 3, -1, -1]


def test_without_deduplication_every_instance_has_all_experts_to_itself():
    identity = Identity.of(Tenants(2, 1, deduplicate=False), 4)
    assert identity.table.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_routing_guesses_and_probabilities_move_to_the_pool_together():
    row = random_trace(1, 1, 3, **MODEL).request(0)
    probabilities = np.random.default_rng(0).random((3, 2, 4)).astype(np.float32)
    row = replace(row, probabilities=probabilities)
    moved = Identity(2, 4, 2).rows(row, 1)
    there = {0: 0, 1: 1, 2: 4, 3: 5, -1: -1}
    assert moved.experts.tolist() == np.vectorize(there.get)(row.experts).tolist()
    assert moved.guesses.tolist() == np.vectorize(there.get)(row.guesses).tolist()
    assert (moved.probabilities[..., [0, 1, 4, 5]] == probabilities).all()
    assert (moved.probabilities[..., [2, 3]] == 0).all()


def mixtral_memory(count: int, **how):
    big = {"memory_capacity_bytes": 10**12}
    tiny = tiny_platform()
    devices = {name: replace(d, **big) if name in ("gpu0", "dram") else d for name, d in tiny.devices.items()}
    platform = Platform(tiny.name, devices, tiny.links, tiny.workers, tiny.home, tiny.cpu)
    run = build(
        Scenario(
            ModelSpec.from_mapping(shipped("model", "mixtral_8x7b")),
            random_trace(0, count, 2, 32, 8, 2),
            platform,
            system(scheduling=Continuous),
            Workload(),
            Settings(workspace_bytes=2**30),
            tenants=Tenants(count, 1, **how),
        )
    )
    return run.memories[0]


EXPERT = 3 * 4096 * 14336 * 2
ATTENTION = 2 * (4096 * 4096 + 4096 * 1024)
DENSE = 2 * (32 * (ATTENTION + 8 * 4096 + 2 * 4096) + 2 * 32000 * 4096 + 4096)


def test_memory_of_mixtral_variants_is_shared_experts_and_what_each_adds():
    """14 variants, 7 of 8 experts shared: 32 (7 + 14) experts and 14 times the rest, 282 GB (published: about 294)."""
    found = mixtral_memory(14)
    assert found.cache_bytes == 32 * (7 + 14) * EXPERT
    assert found.dense_bytes == 14 * DENSE
    assert found.workspace_bytes == 2**30
    assert 281e9 < found.cache_bytes + found.dense_bytes < 283e9


def test_separate_instances_take_their_number_times_one_of_everything():
    """2 plain variants: 187 GB of weights (published with all overheads: 224)."""
    found = mixtral_memory(2, **SEPARATE)
    assert found.cache_bytes == 2 * 32 * 8 * EXPERT
    assert found.dense_bytes == 2 * DENSE
    assert found.workspace_bytes == 2 * 2**30
    assert 186e9 < found.cache_bytes + found.dense_bytes < 188e9


def test_a_unique_expert_is_loaded_for_each_instance_and_a_shared_one_once():
    trace = tiny_trace([[[[0, 3], [1, 3]]]] * 2)  # one token each; expert 3 is the unique one
    shared, unique = (serve(Tenants(2, unique), trace=trace) for unique in (0, 1))
    assert counts(shared)["loads"] == 4
    assert counts(unique)["loads"] == 6
    assert unique.experts.groupby("expert").selections.sum().tolist() == [2, 2, 0, 2, 2]
    assert sum(r.load_bytes for r in unique.records) == 6 * EXPERT_BYTES


# ---- as without instances


@pytest.mark.parametrize("prediction", [None, TransitionPrediction])
@pytest.mark.parametrize("room", [3, 8])
def test_one_instance_is_the_plain_run(prediction, room):
    roles = {} if prediction is None else {"prediction": prediction}
    plain, one = (
        serve(tenants, roles=roles, cache_bytes=room * EXPERT_BYTES, workload=Workload(requests=5))
        for tenants in (Tenants(), Tenants(1, 2, fused_gate=False, merged_steps=False))
    )
    assert steps_of(plain) == steps_of(one)
    assert plain.summary == one.summary
    assert plain.request_rows == one.request_rows


@pytest.mark.parametrize("merged", [True, False])
def test_instances_that_nobody_asks_leave_the_times_as_they_are(tmp_path, merged):
    listed = requests_file(tmp_path, [f"{0.00003 * n},a,{n}" for n in range(6)])
    plain, lonely = (
        serve(tenants, workload=Workload(file=listed), cache_bytes=8 * EXPERT_BYTES)
        for tenants in (Tenants(), Tenants(3, 2, merged_steps=merged, fused_gate=False))
    )
    assert steps_of(plain) == steps_of(lonely)
    assert set(lonely.requests.instance) == {0}


def test_an_engine_of_its_own_launches_its_own_experts_only(tmp_path):
    """Kernels of experts take time for every expert that a launch can name."""
    listed = requests_file(tmp_path, [f"{0.003 * n},a,{n}" for n in range(4)])
    gpu = Platform.from_mapping(shipped("platform", "a100_host"))
    plain, lonely = (
        serve(tenants, workload=Workload(file=listed), platform=gpu)
        for tenants in (Tenants(), Tenants(6, 2, **SEPARATE))
    )
    assert steps_of(plain) == steps_of(lonely)


# ---- steps


@pytest.mark.parametrize("instances", [2, 4])
def test_equal_requests_of_instances_that_share_all_make_experts_serve_that_many_times_the_tokens(instances):
    alone = random_trace(5, 1, 9, **MODEL).request(0).experts.tolist()
    results = [
        serve(Tenants(instances, 0, **how), trace=tiny_trace([alone] * instances), cache_bytes=64 * EXPERT_BYTES)
        for how in ({}, SEPARATE)
    ]
    merged, separate = (result.summary["tokens_per_expert"] for result in results)
    assert merged == instances * separate == instances
    assert [len(result.records) for result in results] == [9, 9 * instances]


def test_a_merged_step_pays_for_every_instance_outside_the_experts_and_once_inside():
    """Per layer and instance: norms, QKV, attention, projection, router, top-k; the experts once; head and norm."""
    trace = tiny_trace([[[[0, 1], [2, 3]]]] * 3)
    overheads = []
    for tenants in (Tenants(), Tenants(3, 0, fused_gate=False), Tenants(3, 0)):
        placed = {"placement": PopularFirst}
        (record,) = serve(tenants, trace=trace, roles=placed, cache_bytes=8 * EXPERT_BYTES).records
        overheads.append(record.waited_ps["overhead"])
    plain, own_gates, fused = overheads
    experts_ps = 2 * LAUNCH_PS  # one launch in each of two layers
    assert own_gates - experts_ps == 3 * (plain - experts_ps)
    assert own_gates - fused == 2 * 2 * 2 * LAUNCH_PS  # two layers, router and top-k, of two instances


def test_engines_take_turns():
    result = serve(Tenants(3, 1, **SEPARATE), workload=Workload(max_decode_tokens=4))
    instance = result.requests.set_index("request").instance
    turns = [{instance[request] for request in record.requests} for record in result.records]
    assert all(len(turn) == 1 for turn in turns)
    order = [turn.pop() for turn in turns]
    assert order[:9] == [0, 1, 2] * 3


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("pages", [5, 9])
def test_under_pressure_every_token_is_processed_once(merged, pages):
    result = serve(
        Tenants(3, 1, merged_steps=merged),
        workload=Workload(synthetic_prefill=False),
        kv_cache_bytes=pages * 4 * 256,
        cache_bytes=6 * EXPERT_BYTES,
    )
    assert result.summary["preemptions"] > 0
    assert result.requests.decode_tokens.tolist() == [8 + n for n in range(8)]
    assert result.requests.instance.tolist() == [n % 3 for n in range(8)]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("unique", [0, 1, 4])
def test_many_steps_at_once_are_the_same_steps(unique, fused):
    placed = {"placement": PopularFirst}
    one, other = (
        serve(Tenants(3, unique, fused_gate=fused), roles=placed, stepwise=stepwise, framework_layer_s=1e-6)
        for stepwise in (False, True)
    )
    assert one.run.workers[0].stretches is not None
    assert steps_of(one) == steps_of(other)
    assert one.request_rows == other.request_rows


def test_instances_that_follow_the_same_request_ask_for_experts_of_their_own(tmp_path):
    listed = requests_file(tmp_path, ["0,a,0", "0,b,0", "0,b,1"])
    one, other = (
        serve(
            Tenants(2, 2),
            roles={"placement": PopularFirst},
            workload=Workload(file=listed),
            stepwise=stepwise,
        )
        for stepwise in (False, True)
    )
    assert steps_of(one) == steps_of(other)


def test_policies_learn_from_requests_of_all_instances_by_the_pool_and_gates_by_their_own_numbers():
    plan = serve(Tenants(2, 2), workload=Workload(requests=4)).run.plan
    assert [int(rows.experts.max()) for rows in plan.training()] == [3, 5, 3, 5]
    assert [int(rows.experts.max()) for rows in plan.training(pooled=False)] == [3, 3, 3, 3]


@pytest.mark.parametrize("prediction", [LookaheadPrediction, TransitionPrediction])
@pytest.mark.parametrize("workers", [1, 2])
def test_caches_and_predictions_see_one_pool(prediction, workers):
    result = serve(
        Tenants(2, 2),
        roles={"prediction": prediction},
        platform=tiny_platform(workers),
        workload=Workload(requests=6),
        cache_bytes=4 * EXPERT_BYTES,
    )
    assert result.experts.expert.max() == 5
    assert result.summary["prefetch_bytes"] > 0


# ---- gating


class Watched(ResidentOnly):
    """Keeps what it was shown."""

    def choose(self, choice):
        self.seen = getattr(self, "seen", []) + [(choice.ids.copy(), choice.resident().shape)]
        return super().choose(choice)


def test_gating_keeps_tokens_with_the_experts_of_their_own_instance():
    watched = Watched()
    result = serve(
        Tenants(2, 2),
        roles={"gating": lambda: watched},
        cache_bytes=5 * EXPERT_BYTES,
        workload=Workload(requests=6),
    )
    assert result.summary["substituted_weight_share"] > 0
    assert all(ids.max() < 4 and here == (4,) for ids, here in watched.seen)
    assert {len(ids) for ids, _ in watched.seen} > {1}


class AsItIs(GatingPolicy):
    """Chooses what the router chose."""

    chooses = True

    def choose(self, choice):
        return choice.ids, choice.weights


def test_a_gate_that_changes_nothing_changes_nothing():
    plain, same = (
        serve(Tenants(3, 2), roles=roles, cache_bytes=5 * EXPERT_BYTES) for roles in ({}, {"gating": AsItIs})
    )
    assert steps_of(plain) == steps_of(same)


class NextExpert(GatingPolicy):
    """Every expert's successor in its place."""

    rewrites = True

    def rewrite(self, rows):
        return (rows.experts + 1) % 4, np.ones(rows.experts.shape)


def test_a_rewriting_gate_speaks_of_the_instance_s_own_experts():
    trace = tiny_trace([[[[0, 1], [0, 1]]]] * 2)
    result = serve(Tenants(2, 2), trace=trace, roles={"gating": NextExpert})
    assert result.experts.groupby("expert").selections.sum().tolist() == [0, 4, 2, 0, 2, 0]


# ---- refused


@pytest.mark.parametrize(
    ("tenants", "error", "words"),
    [
        (Tenants(0), PlanError, "tenants.count is 0; expected from 1 to"),
        (Tenants(2, 5), PlanError, "tenants.unique_experts is 5; expected from 0 to 4"),
        (Tenants(2, -1), PlanError, "tenants.unique_experts is -1; expected from 0 to 4"),
        (Tenants(20_000, 2), PlanError, "distinct experts in a layer"),
    ],
)
def test_instances_that_cannot_be_are_refused(tenants, error, words):
    with pytest.raises(error, match=words):
        serve(tenants)


def test_batches_fixed_before_the_run_are_refused():
    with pytest.raises(ScenarioError, match=r"tenants.count is 2, but policy/scheduling Lockstep"):
        serve(Tenants(2), roles={"scheduling": Lockstep})


@pytest.mark.parametrize(
    ("names", "words"),
    [("abc", "names 3 tenants, but tenants.count is 2"), (["a", "", "b"], "row 2 names no tenant, but other rows do")],
)
def test_tenants_of_a_list_must_be_instances(tmp_path, names, words):
    listed = requests_file(tmp_path, [f"0,{name},{n}" for n, name in enumerate(names)])
    with pytest.raises(PlanError, match=words):
        serve(Tenants(2), workload=Workload(file=listed))


def test_a_list_s_tenants_are_instances_in_order_of_first_mention(tmp_path):
    listed = requests_file(tmp_path, [f"0,{name},{n}" for n, name in enumerate("bbab")])
    assert serve(Tenants(2), workload=Workload(file=listed)).requests.instance.tolist() == [0, 0, 1, 0]


# ---- whatever they are


@pytest.mark.parametrize("seed", range(12))
def test_the_books_balance_and_an_event_for_every_operation_changes_nothing(seed):
    rng = np.random.default_rng(seed)

    def flag() -> bool:
        return bool(rng.integers(2))

    tenants = Tenants(int(rng.integers(2, 5)), int(rng.integers(0, 5)), flag(), flag(), flag())
    pool = Identity.of(tenants, 4).pool
    asked = {
        "roles": {
            "prediction": [NoPrediction, TransitionPrediction, LookaheadPrediction][rng.integers(3)],
            "placement": [ColdStart, PopularFirst][rng.integers(2)],
            "scheduling": partial(
                Continuous, max_batch=4, token_budget=8, preempt=["recompute", "swap"][rng.integers(2)]
            ),
        },
        "platform": tiny_platform(int(rng.integers(1, 3))),
        "workload": Workload(requests=6),
        "cache_bytes": int(rng.integers(3, 2 * pool + 1)) * EXPERT_BYTES,
        "kv_cache_bytes": int(rng.integers(5, 12)) * 4 * 256,
    }
    one, other = (serve(tenants, stepwise=stepwise, **asked) for stepwise in (False, True))
    assert steps_of(one) == steps_of(other)
    assert one.request_rows == other.request_rows
    assert one.requests.decode_tokens.tolist() == [8 + n for n in range(6)]
    assert one.requests.instance.tolist() == [n % tenants.count for n in range(6)]
    if not tenants.merged_steps:
        instance = one.requests.set_index("request").instance
        assert all(len({instance[request] for request in record.requests}) == 1 for record in one.records)
