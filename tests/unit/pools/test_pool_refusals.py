"""What pools do not go with is said in one sentence, before anything runs."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest

from experiments.cli import main
from simulator.layout_choice import LayoutChoice
from simulator.model import ModelError
from simulator.plan import Workload
from simulator.policies.attention.last_layers import LastLayers
from simulator.policies.execution.cpu_in_place import CpuInPlace
from simulator.policies.gating.resident import ResidentOnly
from simulator.policies.pipeline.dynamic_gating import DynamicGating
from simulator.policies.placement.cold import ColdStart
from simulator.policies.scheduling.continuous import Continuous
from simulator.policies.scheduling.expert_aware import ExpertAware
from simulator.policies.scheduling.lockstep import Lockstep
from simulator.policies.scheduling.regroup import Regroup
from simulator.pools.serve import build_pools
from simulator.pools.spec import Pool, Pools
from simulator.result import simulate
from simulator.scenario import ScenarioError, Settings
from simulator.tenants.spec import Tenants
from tests.helpers import EXPERT_BYTES
from tests.unit.pools.test_pools import scenario, two

ONE = Pool(layout=LayoutChoice(gpus=1))
START = r"^pools are set, but "


@pytest.mark.parametrize(
    ("pools", "sentence"),
    [
        (Pools(ONE), r"^pools\.decode\.layout\.gpus is null; expected how many GPUs each replica of the pool has\.$"),
        (Pools(replace(ONE, replicas=0), ONE), r"^pools\.prefill\.replicas is 0; expected at least 1\.$"),
        (Pools(ONE, Pool(layout=LayoutChoice(gpus=0))), r"^pools\.decode\.layout\.gpus is 0; expected at least 1\.$"),
        (
            Pools(ONE, replace(ONE, replicas=2)),
            r"^the replicas have 3 GPUs together \(pools\.prefill 1, pools\.decode 2\); expected at most the 2 work",
        ),
        (Pools(ONE, ONE, ONE), r"^pools\.aggregated and pools\.prefill are both set; expected one of them, as there"),
        (Pools(ONE, ONE, dealing="random"), r"^pools\.dealing is 'random'; expected in_turn or fewest_tokens\.$"),
        (
            Pools(replace(ONE, scheduling=Lockstep), ONE),
            START + r"policy/scheduling Lockstep fixes batches before the run; expected continuous, .*\.$",
        ),
        (
            Pools(ONE, replace(ONE, scheduling=partial(Continuous, preempt="swap"))),
            START + r"policy\.scheduling\.preempt is swap, to host memory .*; expected recompute\.$",
        ),
    ],
)
def test_pools_that_cannot_be(tmp_path, pools, sentence):
    with pytest.raises(ScenarioError, match=sentence):
        simulate(scenario(tmp_path, [0.0], pools))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layout": LayoutChoice(tp=2)}, r"layout\.tp is too; expected the layouts of pools in its place\.$"),
        ({"tenants": Tenants(count=2)}, r"tenants\.count is 2; expected 1\.$"),
        ({"settings": Settings(prefix_cache=True)}, r"settings\.prefix_cache is true; expected false, as requests are"),
        ({"settings": Settings(timeline=True)}, r"timeline is true; expected false, as replicas are runs of their"),
        ({"pipeline": DynamicGating}, r"policy/pipeline DynamicGating has none; expected PlainPipeline\.$"),
        ({"gating": ResidentOnly}, r"policy/gating ResidentOnly has none; expected AsRouted\.$"),
        ({"attention": partial(LastLayers, 1)}, r"the host CPU, which replicas share, is to run attention or experts;"),
        ({"execution": CpuInPlace}, r"the host CPU, which replicas share, is to run attention or experts;"),
    ],
)
def test_what_pools_do_not_go_with(tmp_path, changes, sentence):
    made = scenario(tmp_path, [0.0], two())
    roles = {name: value for name, value in changes.items() if hasattr(made.system, name)}
    rest = {name: value for name, value in changes.items() if name not in roles}
    with pytest.raises(ScenarioError, match=START + sentence):
        simulate(replace(made, system=replace(made.system, **roles), **rest))


def test_prompts_have_to_be_there(tmp_path):
    made = scenario(tmp_path, [0.0], two())
    unrouted = [replace(info, prefill_tokens=0, first_position=4) for info in made.trace.requests]
    made.trace.requests = type(made.trace.requests)(unrouted)
    with pytest.raises(
        ScenarioError, match=START + r"the prompt of request 0 was not recorded; expected workload\.syn"
    ):
        simulate(made)


def test_arrivals_must_not_depend_on_answers(tmp_path):
    path = tmp_path / "loop.csv"
    path.write_text("prompt_tokens,decode_tokens,client,think_s\n6,5,0,0.1\n6,5,0,0.1\n")
    made = replace(scenario(tmp_path, [0.0], two()), workload=Workload(file=str(path), binding="cycle"))
    with pytest.raises(ScenarioError, match=START + r"clients of .*loop\.csv ask again when they have an answer;"):
        simulate(made)


@pytest.mark.parametrize(("placement", "room"), [(ColdStart, 8), (None, 7)])
def test_experts_have_to_be_in_gpu_memory(tmp_path, placement, room):
    made = scenario(tmp_path, [0.0], two(), cache_bytes=room * EXPERT_BYTES)
    if placement is not None:
        made = replace(made, system=replace(made.system, placement=placement))
    held = 0 if placement else 7
    with pytest.raises(ScenarioError, match=rf"^pools\.decode: {held} of 8 experts of tiny are in GPU memory at the"):
        simulate(made)


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_a_layout_that_cannot_be_is_refused_with_its_pool(tmp_path, name):
    pools = two(**{name: {"gpus": 2, "tp": 3}})
    sentence = rf"^pools\.{name}: layout\.tp is 3; expected a divisor of the 2 GPUs of a stage\.$"
    ran = []
    with pytest.raises(ModelError, match=sentence):
        simulate(scenario(tmp_path, [0.0], pools, workers=3), ran.append)
    assert not ran


def test_a_request_that_fits_the_prompts_but_not_the_answers_is_refused_before_it_runs(tmp_path):
    ran = []
    sentence = r"^pools\.decode: request 0 needs 3072 bytes of KV cache for its 12 tokens, but settings\.kv_cache_bytes"
    with pytest.raises(ScenarioError, match=sentence):
        simulate(scenario(tmp_path, [0.0], two(), lengths=[(6, 6)], kv_cache_bytes=8 * 256), ran.append)
    assert not ran


def test_progress_counts_every_token(tmp_path):
    ran = []
    simulate(scenario(tmp_path, [0.0, 0.1], two(), lengths=[(6, 5), (4, 3)]), ran.append)
    assert sum(ran) == 18


@pytest.mark.parametrize("scheduling", [partial(Regroup, batch_size=2), ExpertAware])
def test_other_schedulers_serve_pools_too(tmp_path, scheduling):
    """With room for one request: who reserved a prompt twice would admit none."""
    settings = {"kv_cache_bytes": 12 * 256}
    result = simulate(scenario(tmp_path, [0.0] * 3, two(), lengths=[(6, 5)] * 3, scheduling=scheduling, **settings))
    assert result.requests.decode_tokens.tolist() == [5] * 3


def test_both_memories_are_known_before_the_run(tmp_path):
    prefill, decode = build_pools(scenario(tmp_path, [0.0] * 3, two(), lengths=[(8, 4)] * 3))
    assert [run.memories[0].kv_bytes for run in (prefill, decode)] == [3 * 8 * 256, 3 * 12 * 256]
    assert [run.memories[0].device for run in (prefill, decode)] == ["gpu0", "gpu1"]


COMMAND = [
    *("run", "model=tiny_moe", "trace=tiny_moe", "platform=two_rtx_3090", "policy/placement=popular"),
    *("policy/scheduling=continuous", "workload.requests=3", "workload.max_decode_tokens=4"),
    *("workload.synthetic_prefill=true", "pools.prefill.layout.gpus=1", "pools.decode.layout.gpus=1"),
]


def moesim(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()


def test_the_command_writes_a_run_folder(tmp_path):
    code, out, err = moesim(*COMMAND, "pools.decode.scheduling.max_batch=2", f"out={tmp_path / 'run'}")
    assert (code, err) == (0, "")
    assert "KV transfer" in out
    requests = pd.read_parquet(tmp_path / "run" / "requests.parquet")
    assert (requests.kv_transfer_s > 0).all()
    for table in ("steps", "layers", "experts", "devices", "links"):
        assert {"pool", "replica"} <= set(pd.read_parquet(tmp_path / "run" / f"{table}.parquet"))
    told = json.loads((tmp_path / "run" / "provenance.json").read_text())["pools"]
    assert told["prefill"]["layout"]["tp"] == 1
    code, out, err = moesim(*COMMAND, "--dry-run")
    assert (code, err) == (0, "")
    assert out.count("# simulated memory of gpu") == 2


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "pools.prefill.scheduling.max_btch=2",
            "pools.prefill.scheduling: unknown field 'max_btch'; did you mean 'max_batch'?",
        ),
        ("pools.prefil.replicas=2", "unknown key 'pools.prefil'; did you mean 'pools.prefill'?"),
        ("pools.decode.replicas=many", "pools.decode.replicas=many: expected a whole number."),
    ],
)
def test_an_override_that_cannot_be(tmp_path, override, sentence):
    code, out, err = moesim(*COMMAND, override, f"out={tmp_path / 'run'}")
    assert (code, out) == (2, "")
    assert err.startswith(sentence)
    assert err.count("\n") == 1
