"""A new policy is one class: defined here, run at once. A broken one ends in a sentence."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from experiments.cli import main
from simulator.plan import Workload
from simulator.policies.base import unheard_hook
from simulator.policies.cache.base import CachePolicy
from simulator.policies.cache.lru import Lru
from simulator.policies.execution.base import ExecutionPolicy, Split
from simulator.policies.gating.base import GatingPolicy
from simulator.policies.placement.base import PlacementPolicy
from simulator.policies.precision.base import PrecisionPolicy
from simulator.policies.prediction.base import PredictionPolicy
from simulator.policies.prediction.lookahead import LookaheadPrediction
from simulator.policies.prefetch.base import PrefetchPolicy
from simulator.residency import PolicyError
from simulator.scenario import ScenarioError
from tests.helpers import EXPERT_BYTES, counts, random_trace, run, system, tiny_model, tiny_platform, tiny_trace

LAYERS, EXPERTS, TOP_K = 3, 6, 2
MODEL = tiny_model(LAYERS, EXPERTS, TOP_K)
TRACE = random_trace(21, 3, 10, LAYERS, EXPERTS, TOP_K)


def simulated(slots: int = 8, workload: Workload | None = None, **roles):
    return run(MODEL, TRACE, tiny_platform(), system(**roles), workload, cache_bytes=slots * EXPERT_BYTES)


class MostRecentlyUsed(CachePolicy):
    """Drops what was used last."""

    def __init__(self) -> None:
        self._order: dict[int, None] = {}

    def on_layer(self, blobs, loads, view):
        for blob in blobs:
            self._order.pop(blob, None)
            self._order[blob] = None

    def on_insert(self, blobs, view):
        self.on_layer(blobs, blobs, view)

    def on_evict(self, blob):
        self._order.pop(blob, None)

    def victims(self, need_bytes, incoming, view):
        return view.take_until(need_bytes, reversed(self._order))


class SameAgain(PredictionPolicy):
    """Expects the next layer to choose the same expert numbers as this one."""

    def bind(self, context):
        self._layers, self._experts = context.layers, context.experts

    def guess(self, rows, following):
        target = (np.arange(self._layers) + 1) % self._layers
        return rows.experts + (target * self._experts)[None, :, None]


def test_a_cache_policy_of_ones_own_runs():
    """One layer, experts 0 1 2 0 1 2 ... with two slots: dropping the last used keeps one expert that hits.

    0 1 | 2 replaces 1 | 0 hits, 1 replaces 0 | 2 hits, 0 replaces 2 | 1 hits ...: from the fourth on every second hits.
    Least recently used never hits.
    """
    trace = tiny_trace([[[[token % 3]] for token in range(9)]])
    model = tiny_model(1, 4, 1)
    mine, lru = (
        run(model, trace, tiny_platform(), system(cache=cache), cache_bytes=2 * EXPERT_BYTES)
        for cache in (MostRecentlyUsed, Lru)
    )
    assert [record.hits for record in mine.records] == [0, 0, 0, 1, 0, 1, 0, 1, 0]
    assert counts(lru)["hits"] == 0


def test_a_predictor_of_ones_own_runs():
    """Tokens 01 12 23 34 45 50, the same numbers in all three layers, room for all 18 experts.

    Layer 0 loads its six experts on demand; those of layers 1 and 2 are guessed right, six each.
    """
    trace = tiny_trace([[[[token % 6, (token + 1) % 6]] * LAYERS for token in range(6)]], EXPERTS)
    result = run(MODEL, trace, tiny_platform(), system(prediction=SameAgain), cache_bytes=18 * EXPERT_BYTES)
    assert [row[2] for row in result.run.workers[0].layer_counts[0]] == [6, 0, 0]
    assert sum(record.prefetches for record in result.records) == 12
    assert sum(record.useful_prefetches for record in result.records) == 12


def test_the_truth_recorded_as_a_guess_is_never_fetched_in_vain():
    result = simulated(slots=LAYERS * EXPERTS, prediction=LookaheadPrediction)
    assert result.summary["prefetch_useful_rate"] == 1.0


class Choosy(PrefetchPolicy):
    """Fetches the best guess only."""

    def choose(self, missing, work):
        return missing[:1]


def test_a_prefetch_policy_of_ones_own_runs():
    result = simulated(slots=LAYERS * EXPERTS, prediction=LookaheadPrediction, prefetch=Choosy)
    steps = len(result.records)
    assert 0 < sum(record.prefetches for record in result.records) <= steps * (LAYERS - 1)


class FirstOnCpu(ExecutionPolicy):
    """The first missing expert runs on the host, the others are fetched."""

    uses_cpu = True

    def split(self, work):
        return Split(work.misses[1:], work.misses[:1])


def test_an_execution_policy_of_ones_own_runs():
    result = simulated(execution=FirstOnCpu, workload=Workload(requests=1, max_decode_tokens=1))
    assert counts(result) == {"hits": 0, "late": 0, "loads": LAYERS, "on_cpu": LAYERS}


class Halves(PlacementPolicy):
    """The lower half of the experts belongs to the first worker."""

    def owner(self, layer, expert, workers):
        return int(expert >= EXPERTS // 2)


def test_a_placement_of_ones_own_runs():
    result = run(MODEL, TRACE, tiny_platform(2), system(placement=Halves), cache_bytes=9 * EXPERT_BYTES)
    loads = {(name, blob % EXPERTS >= 3) for name, blob, *_ in result.run.fabric.log if blob >= 0}
    assert loads == {("dram->gpu0", False), ("dram->gpu1", True)}


# ---- broken ones


class NamesTheAbsent(Lru):
    def victims(self, need_bytes, incoming, view):
        return [blob for blob in range(LAYERS * EXPERTS) if blob not in self._order][:4]


class NamesThePinned(Lru):
    def victims(self, need_bytes, incoming, view):
        return list(incoming)[:1] or [0]


class NamesTwice(Lru):
    def victims(self, need_bytes, incoming, view):
        return 2 * super().victims(need_bytes, incoming, view)


class NamesNobody(Lru):
    def victims(self, need_bytes, incoming, view):
        return []


def one_sentence(message: str) -> bool:
    return message.endswith(".") and ". " not in message and "\n" not in message


@pytest.mark.parametrize("broken", [NamesTheAbsent, NamesThePinned, NamesTwice])
def test_a_victim_that_is_not_resident_or_pinned_is_refused_in_one_sentence(broken):
    with pytest.raises(PolicyError) as refusal:
        simulated(slots=4, cache=broken)
    assert f"policy/cache {broken.__name__} named blob " in str(refusal.value)
    assert "expected one that is resident and not pinned" in str(refusal.value)
    assert one_sentence(str(refusal.value))


def test_a_policy_that_names_nobody_while_an_expert_waits_is_refused_in_one_sentence():
    with pytest.raises(PolicyError) as refusal:
        simulated(slots=4, cache=NamesNobody)
    assert "policy/cache NamesNobody named no victim although an expert of layer" in str(refusal.value)
    assert one_sentence(str(refusal.value))


def test_an_owner_that_does_not_exist_is_refused_before_the_run():
    class Elsewhere(PlacementPolicy):
        def owner(self, layer, expert, workers):
            return 7

    with pytest.raises(ScenarioError, match=r"^policy/placement names worker 7; the platform has workers 0 to 0\.$"):
        simulated(placement=Elsewhere)


def test_a_predictor_whose_trace_has_no_guesses_is_refused_before_the_run():
    trace = random_trace(1, 1, 3, LAYERS, EXPERTS, TOP_K, guesses=False)
    with pytest.raises(ValueError, match="lookahead asks for guesses 1 layers ahead, but the trace holds none"):
        run(MODEL, trace, tiny_platform(), system(prediction=LookaheadPrediction), cache_bytes=8 * EXPERT_BYTES)


def test_policies_of_one_run_do_not_leak_into_the_next():
    choice = {"cache": partial(Lru), "prediction": SameAgain}
    first, second = simulated(**choice), simulated(**choice)
    assert first.summary == second.summary


class SilentGate(GatingPolicy):
    def choose(self, choice):
        return choice.ids, choice.weights


class SilentRewrite(GatingPolicy):
    def rewrite(self, rows):
        return rows.experts, rows.weights


class SilentPrecision(PrecisionPolicy):
    bits = (None, 8.0)

    def wanted(self, blobs, choice):
        return [1] * len(blobs)


class SilentCache(Lru):
    def on_forecast(self, blobs, scores, view):
        self.on_layer(blobs, (), view)


class SilentAhead(FirstOnCpu):
    def ahead(self, work):
        return work.misses


@pytest.mark.parametrize(
    ("role", "broken", "hook", "flag"),
    [
        ("gating", SilentGate, "choose", "chooses"),
        ("gating", SilentRewrite, "rewrite", "rewrites"),
        ("precision", SilentPrecision, "wanted", "by_score"),
        ("cache", SilentCache, "on_forecast", "hears_forecast"),
        ("execution", SilentAhead, "ahead", "precomputes"),
    ],
)
def test_a_hook_that_nothing_would_call_is_refused_before_the_run(role, broken, hook, flag):
    with pytest.raises(ScenarioError) as refusal:
        simulated(**{role: broken})
    name = broken.__name__
    assert str(refusal.value) == f"policy/{role} {name} has `{hook}` but `{flag}` is False; set `{flag} = True`."


def test_a_hook_whose_flag_is_on_or_was_switched_off_on_purpose_is_not_refused():
    class Hears(SilentCache):
        hears_forecast = True

    class Deaf(Hears):
        hears_forecast = False

    class ByParameter(SilentCache):
        def __init__(self, hears: bool) -> None:
            super().__init__()
            self.hears_forecast = hears

    kinds = (Hears, Deaf, partial(ByParameter, False), partial(ByParameter, True))
    assert [unheard_hook(kind()) for kind in kinds] == [None] * 4
    assert unheard_hook(SilentCache()) == ("on_forecast", "hears_forecast")


def test_a_split_that_is_none_is_refused_in_one_sentence():
    class Pair(ExecutionPolicy):
        def split(self, work):
            return work.misses, ()

    with pytest.raises(PolicyError) as refusal:
        simulated(execution=Pair)
    assert str(refusal.value) == "policy/execution Pair: split returned a tuple; expected `Split`."


def test_the_cpu_s_times_asked_for_without_the_cpu_are_refused_in_one_sentence():
    class Asks(ExecutionPolicy):
        def split(self, work):
            return Split([blob for blob in work.misses if work.cpu_ps(blob)])

    with pytest.raises(ValueError, match="without `uses_cpu = True`, or the machine has no host CPU") as refusal:
        simulated(execution=Asks)
    assert one_sentence(str(refusal.value))


def test_low_precision_is_below_what_the_model_stores(tmp_path, capsys):
    tiny = ("model=tiny_moe", "trace=tiny_moe", "cache_gib=0.012", "workload.max_decode_tokens=2", "reference=false")
    for low_bits, code in ((15.5, 0), (16, 2)):
        common = ["run", "-q", "experiment=smoke", "system=hobbit", f"out={tmp_path / 'run'}", *tiny]
        assert main([*common, f"policy.precision.low_bits={low_bits}"]) == code
    said = "policy.precision.low_bits is 16, but the model stores its experts in 16 bits; expected fewer.\n"
    assert capsys.readouterr().err == said


# ---- errors of one's own, from the command line

GATE = """\
import numpy as np
from simulator.policies.gating.base import GatingPolicy

def helper(choice):
    {body}

class Own(GatingPolicy):
    chooses = True

    def choose(self, choice):
        return helper(choice), choice.weights
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "return np.ones((2, 3)) + np.ones((2, 5))",
            "operands could not be broadcast together with shapes (2,3) (2,5)",
        ),
        ("return {}['width']", "KeyError: 'width'"),
        ("return choice.nothing", "AttributeError: 'Choice' object has no attribute 'nothing'"),
        ("raise RuntimeError", "RuntimeError"),
    ],
)
@pytest.mark.parametrize("command", ["run", "multirun", "sweep"])
def test_an_error_in_ones_own_file_is_said_with_file_line_and_hook(tmp_path, monkeypatch, capsys, body, said, command):
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(GATE.replace("{body}", body))
    (tmp_path / f"{name}.yaml").write_text(f"_target_: {name}.Own\n")
    short = ["experiment=smoke", "workload.requests=1", "workload.max_decode_tokens=2", "reference=false"]
    overrides = [*short, f"policy/gating=./{name}.yaml"]
    sentence = f"{name}.py:5 in choose: {said}."
    if command == "sweep":
        assert main(["sweep", *overrides, "--workers", "0", "--out", "x", "-q"]) == 1
        assert sentence in (tmp_path / "x" / "failures.csv").read_text()
        return
    many = ["-m", "seed=1,2"] if command == "multirun" else []
    assert main(["run", *overrides, *many, "-q"]) == 2
    assert capsys.readouterr().err == f"{'seed=1: ' if many else ''}{sentence}\n"
