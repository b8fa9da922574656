"""Gating, precision, staging, whole layers, deferred and early work on the CPU: small runs worked out by hand."""

import numpy as np
import pytest

from simulator.policies.attention.base import AttentionPolicy
from simulator.policies.execution.base import ExecutionPolicy, Split
from simulator.policies.gating.base import GatingPolicy
from simulator.policies.precision.base import PrecisionPolicy
from simulator.policies.prediction.lookahead import LookaheadPrediction
from simulator.policies.slots.staged import StagedSlots
from simulator.residency import PolicyError
from simulator.routing import lost_weight
from simulator.scenario import ScenarioError
from tests.helpers import (
    EXPERT_BYTES,
    counts,
    random_trace,
    run,
    steps_of,
    system,
    tiny_model,
    tiny_platform,
    tiny_trace,
)

LAYERS, EXPERTS, TOP_K = 2, 4, 2
MODEL = tiny_model(LAYERS, EXPERTS, TOP_K)
IDS = [[[0, 1], [2, 3]], [[1, 2], [0, 1]], [[0, 3], [2, 3]]]  # [tokens][layers][slots]
WEIGHTS = [[[0.75, 0.25]] * 2] * 3
TRACE = tiny_trace([IDS], weights=[WEIGHTS])
ALL = LAYERS * EXPERTS * EXPERT_BYTES


def simulated(**roles):
    return run(MODEL, TRACE, tiny_platform(), system(**roles), cache_bytes=ALL)


def loaded(result):
    """Blobs in the order in which they were copied to the worker."""
    return [blob for name, blob, *_ in result.run.fabric.log if name == "dram->gpu0"]


# ---- gating


class FirstOnly(GatingPolicy):
    """Every token keeps its first expert."""

    rewrites = True

    def rewrite(self, rows):
        experts, weights = rows.experts.copy(), np.zeros(rows.experts.shape)
        experts[:, :, 1:] = -1
        weights[:, :, 0] = 1.0
        return experts, weights


def test_rewritten_routing_asks_for_what_is_left_and_states_the_weight_dropped():
    result = simulated(gating=FirstOnly)
    assert loaded(result) == [0, 6, 1, 4]  # first experts of each layer, each once
    assert counts(result) == {"hits": 2, "late": 0, "loads": 4, "on_cpu": 0}
    assert result.summary["dropped_weight_share"] == pytest.approx(0.25)
    assert result.summary["substituted_weight_share"] == 0
    assert result.layers.set_index("phase").loc["decode", "dropped_weight"].tolist() == pytest.approx([0.25, 0.25])


class ToResident(GatingPolicy):
    """Experts that are not resident are replaced by resident ones of lowest number, if there are any."""

    chooses = True

    def choose(self, choice):
        ids, weights = choice.ids.copy(), choice.weights.copy()
        there = choice.resident()
        for row in ids:
            for slot, expert in enumerate(row):
                free = [e for e in np.flatnonzero(there) if e not in row]
                if not there[expert] and free:
                    row[slot] = free[0]
        return ids, weights


def test_gating_that_sees_what_is_resident_substitutes():
    result = simulated(gating=ToResident)
    # token 0 finds nothing resident: loads 0, 1 and 2, 3 of layer 1. Token 1: 1 is here, 2 is replaced by 0; then 0, 1
    # by 2, 3. Token 2: 0 is here, 3 replaced by 1; then 2, 3.
    assert loaded(result) == [0, 1, 6, 7]
    assert counts(result) == {"hits": 8, "late": 0, "loads": 4, "on_cpu": 0}
    substituted = (0.25 + 1.0 + 0.25) / 6
    assert result.summary["substituted_weight_share"] == pytest.approx(substituted)
    assert result.summary["dropped_weight_share"] == 0
    assert result.bounds.reference_tpot_s is None


def test_gating_that_changes_nothing_gives_the_same_run():
    class Same(GatingPolicy):
        rewrites = chooses = True

        def rewrite(self, rows):
            return rows.experts, rows.weights if rows.weights is not None else np.zeros(rows.experts.shape)

        def choose(self, choice):
            return choice.ids, choice.weights

    trace = random_trace(3, 3, 12, LAYERS, EXPERTS, TOP_K, prompt=4)
    for slots in (4, 6):
        plain, changed = (
            run(
                MODEL,
                trace,
                tiny_platform(),
                system(prediction=LookaheadPrediction, **roles),
                cache_bytes=slots * EXPERT_BYTES,
            )
            for roles in ({}, {"gating": Same})
        )
        assert steps_of(plain) == steps_of(changed)


class Unheard(GatingPolicy):
    chooses = True

    def choose(self, choice):
        return choice.ids + EXPERTS, choice.weights


def test_an_expert_that_does_not_exist_is_refused():
    with pytest.raises(PolicyError, match=r"expected .* experts from 0 to 3"):
        simulated(gating=Unheard)


def test_choices_at_run_time_need_one_worker():
    with pytest.raises(ScenarioError, match="one worker"):
        run(MODEL, TRACE, tiny_platform(2), system(gating=ToResident), cache_bytes=ALL)


def test_what_a_policy_needs_the_trace_must_hold():
    class Weighed(FirstOnly):
        needs = ("weights",)

    run(MODEL, TRACE, tiny_platform(), system(gating=Weighed), cache_bytes=ALL)
    with pytest.raises(ScenarioError, match="needs the router's weights"):
        run(MODEL, tiny_trace([IDS]), tiny_platform(), system(gating=Weighed), cache_bytes=ALL)


def test_lost_weight_by_hand():
    before, weights = np.array([[0, 1, 2]]), np.array([[2.0, 1.0, 1.0]])
    for after, dropped, substituted in (
        ([0, 1, 2], 0, 0),
        ([0, -1, -1], 0.5, 0),
        ([0, 5, -1], 0.25, 0.25),
        ([5, 6, 7], 0, 1),
    ):
        found = lost_weight(before, weights, np.array([after]))
        assert [part.item() for part in found] == pytest.approx([dropped, substituted])


# ---- precision


class Halves(PrecisionPolicy):
    """Even experts as stored, odd ones in half the bits."""

    bits = (None, 8.0)

    def level(self, layer, expert):
        return expert % 2


def test_experts_kept_at_low_precision_take_their_own_bytes():
    result = simulated(precision=Halves)
    sizes = {blob: size for name, blob, _, _, _, size in result.run.fabric.log if name == "dram->gpu0"}
    bank = LAYERS * EXPERTS
    assert sizes == {0: EXPERT_BYTES, 2: EXPERT_BYTES, 4: EXPERT_BYTES, 6: EXPERT_BYTES} | {
        bank + odd: EXPERT_BYTES // 2 for odd in (1, 3, 5, 7)
    }
    assert result.summary["load_bytes"] == 6 * EXPERT_BYTES
    # layer 0: odd expert second, first, second; layer 1: second, second, second
    assert result.summary["low_precision_weight_share"] == pytest.approx((0.25 + 0.75 + 0.25 + 3 * 0.25) / 6)


class ByScore(PrecisionPolicy):
    """A token's first expert as stored; its second at half the bits in layer 0, not at all in layer 1."""

    bits = (None, 8.0)
    shares = (0.5, 0.5)
    by_score = True

    def wanted(self, blobs, choice):
        first = set(choice.ids[:, 0])
        return [0 if blob % EXPERTS in first else 1 + choice.layer for blob in blobs]


def test_precision_by_score_uses_what_is_here_at_the_wanted_level_or_better_and_skips_the_rest():
    result = simulated(precision=ByScore)
    bank = LAYERS * EXPERTS
    # layer 0: 0 high, 1 low | 1 high, 2 low | 0 is here, 3 low; layer 1: 2 high, 3 skipped | 0 high, 1 skipped | 2 here
    assert loaded(result) == [0, bank + 1, 6, 1, bank + 2, 4, bank + 3]
    assert counts(result) == {"hits": 2, "late": 0, "loads": 7, "on_cpu": 0}
    assert result.summary["dropped_weight_share"] == pytest.approx(3 * 0.25 / 6)
    assert result.summary["low_precision_weight_share"] == pytest.approx(3 * 0.25 / 6)


# ---- execution


class AllOfTheLayer(ExecutionPolicy):
    """The whole layer is copied, whatever is asked for (accelerate's hooks)."""

    always = True

    def split(self, work):
        begin = work.layer * work.experts
        there = [blob for blob in range(begin, begin + work.experts) if not work.here_or_coming(blob)]
        return Split(there)


def test_a_whole_layer_is_waited_for_though_only_some_of_it_runs():
    part, whole = simulated(), simulated(execution=AllOfTheLayer)
    assert sorted(loaded(whole)[:8]) == list(range(8))
    assert whole.summary["load_bytes"] == ALL
    first = [result.records[0].end_ps - result.records[0].start_ps for result in (part, whole)]
    assert first[1] - first[0] == pytest.approx(
        2 * LAYERS * (EXPERT_BYTES * 1000 + 10**6), rel=0.05
    )  # ps: four more copies
    assert counts(whole) == {"hits": 8, "late": 0, "loads": 4, "on_cpu": 0}


class SecondLater(ExecutionPolicy):
    """Missing experts run on the CPU; of each layer the last may come a layer later."""

    uses_cpu = True

    def __init__(self, defer: bool = True) -> None:
        self._defer = defer

    def split(self, work):
        return Split((), work.misses, work.misses[-1:] if self._defer else ())


def test_deferred_work_is_waited_for_one_layer_later_and_at_the_last_layer():
    slow = tiny_platform(cpu_flop_per_s=1e9)
    plain, deferred = (
        run(MODEL, TRACE, slow, system(execution=lambda defer=defer: SecondLater(defer)), cache_bytes=ALL)
        for defer in (False, True)
    )
    assert counts(plain) == counts(deferred) == {"hits": 0, "late": 0, "loads": 0, "on_cpu": 12}
    assert deferred.duration_ps < plain.duration_ps
    done = max(end for name, _, _, _, end, _ in deferred.run.fabric.log if name == "cpu experts")
    assert deferred.records[-1].end_ps > done  # nothing is left when a step ends


class Early(ExecutionPolicy):
    """Guessed experts that are missing start on the CPU before their layer runs."""

    uses_cpu = precomputes = True

    def __init__(self, ahead: bool = True) -> None:
        self._ahead = ahead

    def split(self, work):
        return Split((), work.misses)

    def ahead(self, work):
        return [blob for blob in work.expected if not work.here_or_coming(blob)] if self._ahead else ()


def test_work_begun_early_is_only_waited_for():
    from simulator.policies.prefetch.none import NoPrefetch

    trace = tiny_trace([IDS], guesses=True)
    slow = tiny_platform(cpu_flop_per_s=1e9, gpu_bytes_per_s=1e8)
    late, early = (
        run(
            MODEL,
            trace,
            slow,
            system(execution=lambda ahead=ahead: Early(ahead), prediction=LookaheadPrediction, prefetch=NoPrefetch),
            cache_bytes=ALL,
        )
        for ahead in (False, True)
    )
    jobs = [sorted(blob for name, blob, *_ in r.run.fabric.log if name == "cpu experts") for r in (late, early)]
    assert jobs[0] == jobs[1]  # every expert once, not twice
    assert early.duration_ps < late.duration_ps


def test_work_begun_in_vain_is_forgotten_once_its_layer_has_run():
    class Once(Early):
        """Starts expert 3 of layer 1 after the first layer 0 alone; tokens 0 and 1 do not ask for it, token 2 does."""

        started = False

        def ahead(self, work):
            begin, self.started = not self.started, True
            return [7] if begin else ()

    from simulator.policies.prefetch.none import NoPrefetch

    ids = [[[0, 1], [0, 1]], [[0, 1], [0, 1]], [[0, 1], [0, 3]]]
    roles = {"execution": Once, "prediction": LookaheadPrediction, "prefetch": NoPrefetch}
    result = run(MODEL, tiny_trace([ids], guesses=True), tiny_platform(), system(**roles), cache_bytes=ALL)
    jobs = [blob for name, blob, *_ in result.run.fabric.log if name == "cpu experts"]
    assert jobs.count(7) == 2


class Forgetful(ExecutionPolicy):
    def split(self, work):
        return Split(work.misses[1:])


def test_a_missing_expert_that_is_forgotten_is_an_error():
    with pytest.raises(PolicyError, match="expected every missing expert"):
        simulated(execution=Forgetful)


# ---- staging


def test_what_is_fetched_ahead_waits_in_its_buffer_and_displaces_nothing_until_it_is_asked_for():
    ids = [[[0, 1], [0, 1]], [[2, 3], [0, 1]], [[0, 1], [0, 1]]]
    wrong = tiny_trace([ids], guesses=True)

    class Wrong(LookaheadPrediction):
        """Names experts 2 and 3 of layer 1, which nobody asks for."""

        clairvoyant = True

        def guess(self, rows, following):
            named = np.full((rows.tokens, LAYERS, 2), -1)
            named[:, 0] = [6, 7]
            return named

    budget = 2 * LAYERS * EXPERT_BYTES
    plain = run(MODEL, wrong, tiny_platform(), system(prediction=Wrong), cache_bytes=budget)
    staged = run(
        MODEL,
        wrong,
        tiny_platform(),
        system(prediction=Wrong, slots=lambda: StagedSlots(2)),
        cache_bytes=budget + 2 * EXPERT_BYTES,
    )
    layer_one = [[row[0] for row in r.run.workers[0].layer_counts[0]][1] for r in (plain, staged)]
    assert layer_one == [layer_one[0], 4]  # 0 and 1 of layer 1 stay
    assert layer_one[0] < 4
    assert staged.run.tiers[0].staging.peak_bytes <= 2 * EXPERT_BYTES


def test_a_staged_expert_that_is_asked_for_enters_the_cache():
    trace = tiny_trace([IDS], guesses=True)
    result = run(
        MODEL,
        trace,
        tiny_platform(),
        system(prediction=LookaheadPrediction, slots=lambda: StagedSlots(2)),
        cache_bytes=ALL + 2 * EXPERT_BYTES,
    )
    tier = result.run.tiers[0]
    resident = [blob for blob, slot in enumerate(tier.slots) if slot is not None and blob not in tier.staged]
    assert set(resident) == {0, 1, 2, 3, 4, 5, 6, 7}
    assert sum(p.used_bytes for p in {id(p): p for p in tier.partitions}.values()) == len(resident) * EXPERT_BYTES
    assert result.summary["prefetch_useful_rate"] == 1.0


# ---- attention on the host


class FirstLayer(AttentionPolicy):
    def on_host(self, layers):
        return (0,)


def test_a_layer_on_the_host_takes_the_hosts_time_and_none_of_the_workers_memory():
    slow = tiny_platform(cpu_flop_per_s=1e8)
    here, there = (run(MODEL, TRACE, slow, system(**r), cache_bytes=ALL) for r in ({}, {"attention": FirstLayer}))
    assert there.duration_ps > here.duration_ps
    saved = here.run.memories[0].dense_bytes - there.run.memories[0].dense_bytes
    assert saved == MODEL.layer_dense_bytes(0)
    assert here.run.memories[0].kv_bytes == 2 * there.run.memories[0].kv_bytes


def test_layers_and_tables_make_up_the_dense_bytes():
    tables = sum(size for part, (_, size) in MODEL.parts().items() if part in ("embedding", "lm_head"))
    final_norm = MODEL.hidden * 2
    layers = sum(MODEL.layer_dense_bytes(layer) for layer in range(MODEL.layers))
    assert layers + tables + final_norm == MODEL.dense_bytes


# ---- framework


def test_a_frameworks_time_is_added_to_every_routed_layer():
    plain, slow = (run(MODEL, TRACE, tiny_platform(), cache_bytes=ALL, framework_layer_s=s) for s in (0.0, 1e-3))
    assert slow.records[-1].end_ps - plain.records[-1].end_ps == 3 * LAYERS * 10**9
    added = slow.attribution_ps["overhead"] - plain.attribution_ps["overhead"]
    assert added == 3 * LAYERS * 10**9
