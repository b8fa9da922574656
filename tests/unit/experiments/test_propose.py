"""`moesim propose`: break-even values, parameters, warnings, and a report from end to end."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from experiments.catalogue import load as load_choice
from experiments.cli import main
from experiments.compose import CONF
from experiments.proposal.breakeven import break_even
from experiments.proposal.cases import Scope, cases
from experiments.proposal.cautions import beyond, cautions, pins
from experiments.proposal.energy import per_dollar, per_watt, unpriced, unsaid
from experiments.proposal.parameters import parameters
from experiments.proposal.runs import Outcome, changed
from experiments.proposal.sides import NEAR, RIVAL, UNITS, Side, sides
from experiments.proposal.skew import busiest_share
from experiments.proposal.study import EQUAL, Study
from experiments.results import load
from hwmodels import Platform

EXAMPLE = CONF.parents[1] / "examples" / "ndp_box.yaml"
SEARCHED = EXAMPLE.with_name("ndp_search.yaml")
LEAST = Scope(4, 5, 4, 1, (0.5,), (1,), (256,), 2, (None,), 2)
COMMAND = ["propose", str(SEARCHED), "--against", "rtx_3060", "--small", "--workers", "0"]
COMMAND += ["--system", "box=near_makespan", "--system", "rtx_3060=pinned_popular"]
TINY = ["model=tiny_moe", "trace=tiny_moe", "cache_gib=0.001"]


def box(**changes) -> Platform:
    node = yaml.safe_load(EXAMPLE.read_text())
    for key, value in changes.items():
        node = changed(node, key.split("__"), value)
    return Platform.from_mapping(node)


def test_a_power_law_breaks_even_where_it_is_one() -> None:
    found = break_even({factor: 0.4 * factor**0.5 for factor in (0.125, 1.0, 2.0, 8.0)})
    assert found is not None
    assert found.factors == pytest.approx([1 / 0.16])  # 0.4 * f ** 0.5 = 1
    assert (found.wins_below, found.wins_above) == (False, True)


def test_a_speed_up_may_pass_one_twice_and_a_failed_run_is_passed_over() -> None:
    found = break_even({0.5: 0.5, 1.0: 2.0, 2.0: 0.5, 4.0: math.nan})
    assert found is not None
    assert found.factors == pytest.approx([2**-0.5, 2**0.5])
    assert found.most == 2.0


def test_without_a_second_run_there_is_no_break_even() -> None:
    assert break_even({1.0: 2.0, 2.0: math.nan}) is None


def test_every_parameter_changes_what_it_says_and_nothing_else() -> None:
    node = yaml.safe_load(EXAMPLE.read_text())
    before = box()
    rates = {
        "internal bandwidth": lambda it: it.devices["near"].memory_read_bytes_per_s,
        "arithmetic": lambda it: it.devices["near"].peak_flop_per_s["fp16"],
        "weight reuse (FLOP/byte)": lambda it: it.devices["near"].reuse_flop_per_byte,
        "link bandwidth": lambda it: it.links[0].bandwidth_bytes_per_s,
        "capacity": lambda it: it.devices["module"].memory_capacity_bytes,
    }
    found = parameters(before, node, 4.0)
    assert [parameter.name for parameter in found] == [*rates, "expert budget of the worker"]
    assert found[-1].changes(0.5) == {"cache_gib": 2.0}
    for parameter in found[:-1]:
        after = node
        for key, value in parameter.changes(2.0).items():
            after = changed(after, key.split(".")[1:], value)
        platform = Platform.from_mapping(after)
        for name, rate in rates.items():
            assert rate(platform) == pytest.approx((2 if name == parameter.name else 1) * rate(before)), name
    assert [parameter.text(1.0) for parameter in found] == [
        "512 GB/s", "4.1 TFLOP/s", "8", "32 GB/s", "128 GiB", "4 GiB",
    ]  # fmt: skip


def test_more_bandwidth_than_pins_and_their_rate_carry_is_told() -> None:
    assert list(pins(box())) == []  # 512 pins x 8 GT/s / 8 bits = 512 GB/s, as the file says
    (said,) = pins(box(devices__module__pin_rate_hz="6 GHz"))
    assert "512 GB/s inside, but its 512 pins at 6 GHz allow 384 GB/s" in said


def test_a_unit_beyond_every_measured_device_is_told() -> None:
    assert not any("beyond" in said for said in beyond(box()))
    fast = box(devices__module__memory_read_bytes_per_s="900 TB/s")
    assert "near reads 900 TB/s, beyond any device that was measured" in next(iter(beyond(fast)))


def test_more_arithmetic_for_its_bandwidth_than_any_measured_device_is_told() -> None:
    assert list(beyond(box())) == []
    (said,) = beyond(box(devices__near__macs=200_000))  # 400 TFLOP/s over 512 GB/s
    assert said.startswith("**near has 781 FLOP for each byte")


def study(other: Platform | None = None, **changes: Any) -> Study:
    other = other or Platform.from_mapping(load_choice("platform", "rtx_4090"))
    made = [Side("box", "", box(**changes), ("near_all",)), Side(other.name, "", other, ("on_demand_lru",))]
    return Study(Path(), Scope(), (), made, cases(Scope()), {})


def test_a_workload_that_does_not_run_is_told() -> None:
    made = study()
    made.systems["rtx_4090", "on_demand_lru", "decode_1", EQUAL] = Outcome({}, "the experts do not fit.", None, None)
    said = [text for text in cautions(made) if "does not run" in text]
    assert "**decode, one request at a time does not run on rtx_4090**: the experts do not fit." in said
    assert len(said) == 6  # two machines, three workloads


def test_at_equal_power_the_file_without_a_host_has_that_of_the_other() -> None:
    made = study()
    (rival,) = made.rivals
    host_w = rival.platform.devices["cpu"].tdp_w
    assert host_w > 0
    assert per_watt(made, rival) == pytest.approx((450 + host_w) / (450 + 10 + host_w))
    assert math.isnan(per_dollar(made, rival))
    cost, host = unsaid(made, rival)
    assert "is stated for gpu0, module of box; gpu0, cpu, dram, ssd of rtx_4090." in cost
    assert host == "The file of box has no host CPU: here it is taken to have that of rtx_4090."


def test_a_dash_in_the_energy_has_a_reason() -> None:
    made = study(devices__near__process="", devices__near__tdp_w=0)
    ran = {"prefill_tokens": 0, "decode_tokens": 4, "energy_bottom_up_j": None, "energy_by_power_j": 2.0}
    for case in made.cases:
        made.best["box", case.name, EQUAL] = "near_all"
        made.systems["box", "near_all", case.name, EQUAL] = Outcome(ran, "", None, None)
    priced, power = unpriced(made)
    assert priced.startswith(
        "Energy bottom up of box lacks prices: device 'near': what an operation in fp16 costs is not"
    )
    assert power == "Energy by power of box lacks the `tdp_w` of near."


def test_at_equal_cost_the_speed_up_is_divided_by_what_the_machine_costs_more() -> None:
    prices = {"devices__gpu0__cost_usd": 1600, "devices__module__cost_usd": 400}
    made = study(box(**prices, name="other", devices__near__cost_usd=2000), **prices)
    assert per_dollar(made, made.rivals[0]) == 2.0  # 4000 / 2000 dollars: the box costs half, and gains as much
    assert unsaid(made, made.rivals[0]) == []


def test_the_busiest_eighth_of_the_experts_is_counted_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        meta = SimpleNamespace(num_experts=16, layers=(0, 1))
        requests = range(2)

        def request(self, place: int) -> SimpleNamespace:
            chosen = [[[3, 4], [0, 1]], [[3, 4], [2, -1]], [[3, 5], [4, 5]]]
            return SimpleNamespace(experts=np.array(chosen))

    monkeypatch.setattr("experiments.proposal.skew.trace_of", lambda config: Fake())
    assert busiest_share({}) == pytest.approx((5 / 6 + 2 / 5) / 2)  # two of sixteen in each layer


def test_machines_run_the_systems_that_were_named_for_them() -> None:
    made = sides(str(EXAMPLE), ["rtx_3060", "rtx_4090"], ["rtx_4090=fiddler", "box=near_all"], [])
    assert [side.systems for side in made] == [("near_all",), RIVAL, ("fiddler",)]
    assert sides(str(EXAMPLE), ["rtx_3060"], [], [])[0].systems == UNITS
    assert set(UNITS) & set(NEAR) == set(NEAR)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--system", "rtx_4080=lru"], "there is no machine 'rtx_4080'"),
        (["--system", "fidler"], "there is no system 'fidler'"),
        (["cache_gib=1,2"], "cache_gib: expected one value"),
        (["--workers", "-1"], "--workers is -1"),
        (["--against", "rtx_4900"], "rtx_4900: there is no such choice; did you mean 'rtx_4090'?"),
        (["--model", "qwen3_30b_a3b"], "it has 32 experts per layer, the model 128; give --trace one of that model."),
        (["--against", "rtx_4090"], "two machines have the same name"),
    ],
)
def test_bad_input_ends_in_a_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = ["--out", str(tmp_path / "out")]
    code = main(["propose", str(EXAMPLE), *TINY[:2], *out, "--against", "rtx_4090", *arguments])
    said = capsys.readouterr().err
    assert code == 2
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"devices__near__clok_hz": "1 GHz"}, "unknown field 'devices.near.clok_hz'; did you mean 'clock_hz'?"),
        ({"devices__module__memory_read_bytes_per_s": "-5 GB/s"}, "memory_read_bytes_per_s' must not be negative"),
        ({"devices__near__memory": ""}, "field 'devices.near.memory' is required for a device of kind ndp."),
        ({"devices__module__memory_capacity_bytes": 1000}, "no system runs on it; the first said: the experts of"),
        ({"search": {"budget": {}, "parameters": {"devices.near.mac": {}}}}, "did you mean 'macs'?"),
    ],
)
def test_a_wrong_machine_ends_in_a_sentence(
    changes: dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    node = yaml.safe_load(EXAMPLE.read_text())
    for key, value in changes.items():
        node = changed(node, key.split("__"), value)
    (tmp_path / "box.yaml").write_text(yaml.safe_dump(node))
    command = ["propose", str(tmp_path / "box.yaml"), "--against", "rtx_3060", "--out", str(tmp_path / "out")]
    assert main([*command, *TINY[:2], "--small", "--system", "pinned_popular", "--workers", "0", "-q"]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["ndp_box", "ndp_search"])
def test_the_examples_in_the_docs_are_the_examples(name: str) -> None:
    page = (EXAMPLE.parents[1] / "docs" / "proposals.md").read_text()
    example = EXAMPLE.with_name(f"{name}.yaml").read_text()
    assert sum(block in example for block in re.findall(r"```yaml\n(.*?)```", page, re.S)) == 1


@pytest.fixture(scope="module")
def proposed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("propose") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.commands.propose.QUICK", LEAST)
        assert main([*COMMAND, "--out", str(folder), "-q", *TINY]) == 0
    return folder


def test_a_report_has_every_section_and_a_page_that_needs_nothing_beside_it(proposed: Path) -> None:
    text, page = (proposed / "report.md").read_text(), (proposed / "report.html").read_text()
    for section in (
        "Before you believe it",
        "1. Speed",
        "2. Where",
        "3. What",
        "4. For which",
        "5. How sure",
        "6. The best",
    ):
        assert f"\n## {section}" in text
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert len(pictures) == 5
    assert all((proposed / name).read_text().startswith("<?xml") for name in pictures)
    assert page.count('src="data:image/svg+xml;base64,') == 5
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_a_reported_speed_up_is_that_of_the_runs(proposed: Path) -> None:
    points = load(proposed / "runs" / "equal")
    one = points[(points["workload.batch_size"] == 1) & ~points["workload.synthetic_prefill"]]
    tpot = one.set_index(one["policy.execution"] == "near_makespan")["tpot_mean_s"]
    stated = re.search(r"one request at a time: ([\d.]+) times", (proposed / "report.md").read_text())
    assert stated is not None
    assert float(stated[1]) == pytest.approx(tpot[False] / tpot[True], abs=0.006)


def test_the_same_command_runs_nothing_again_and_says_the_same(
    proposed: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.sweep import runner

    before = (proposed / "report.md").read_bytes(), (proposed / "report.html").read_bytes()
    monkeypatch.setattr(runner, "run_config", None)  # nothing may run
    monkeypatch.setattr("experiments.commands.propose.QUICK", LEAST)
    assert main([*COMMAND, "--out", str(proposed), "--json", *TINY]) == 0
    assert json.loads(capsys.readouterr().out)["speed_ups"][0]["workload"] == "decode_1"
    assert ((proposed / "report.md").read_bytes(), (proposed / "report.html").read_bytes()) == before
