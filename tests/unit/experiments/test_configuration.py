"""Composition: every shipped choice, files of one's own, and what overrides what."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments import schema
from experiments.compose import CONF, choices, chosen, compose_config
from experiments.explain import ConfigError
from experiments.policy import make_policy
from experiments.run import config_hash, scenario_from_config, trace_recipe
from experiments.sweep.points import points
from hwmodels import Platform
from simulator.model import ModelSpec
from simulator.plan import Workload
from simulator.scenario import Settings, System
from traces import data_path, open_trace
from traces.synthesis.guesses import recall_table

POLICIES = [(group, name) for group, names in choices().items() if group.startswith("policy/") for name in names]


@pytest.mark.parametrize(("group", "name"), POLICIES)
def test_every_policy_file_makes_its_policy_with_the_defaults_of_its_class(group: str, name: str) -> None:
    node = OmegaConf.load(CONF / group / f"{name}.yaml")
    make = make_policy(node, group.removeprefix("policy/"))
    assert isinstance(make(), schema.roles()[group.removeprefix("policy/")])
    assert {key for key in node if key != "_target_"} == set(make.keywords)  # every parameter is shown in the file


@pytest.mark.parametrize("name", choices()["model"])
def test_every_model_file_is_a_model(name: str) -> None:
    assert ModelSpec.from_mapping(OmegaConf.load(CONF / "model" / f"{name}.yaml")).source


@pytest.mark.parametrize("name", choices()["platform"])
def test_every_platform_file_is_a_platform_that_describes_itself(name: str) -> None:
    platform = Platform.from_mapping(OmegaConf.load(CONF / "platform" / f"{name}.yaml"))
    assert platform.name == name
    assert platform.description


@pytest.mark.parametrize("name", choices()["trace"])
def test_every_trace_file_names_a_shipped_trace_or_profile(name: str) -> None:
    node = OmegaConf.load(CONF / "trace" / f"{name}.yaml")
    assert node.name == name
    recipe = trace_recipe(node)
    if recipe is None:
        assert len(open_trace(data_path(node.path)))
    else:
        profile = recipe.content()
        if recipe.guesses is not None:
            recall_table(recipe.guesses["recall"], len(profile.layers), name)
        assert profile.gate is not None or profile.base is not None


@pytest.mark.parametrize("group", ["system", "experiment"])
def test_every_system_and_experiment_composes_and_says_what_it_is(group: str) -> None:
    for name in choices()[group][::2]:  # all systems run in tests/smoke
        cfg = compose_config([f"{group}={name}"])
        assert cfg[group].name == name
        assert cfg[group].description
        assert isinstance(scenario_from_config(cfg).system, System)


def test_the_roles_of_the_configuration_are_those_of_a_system() -> None:
    wanted = {f"policy/{f.name}" for f in dataclasses.fields(System) if f.name != "name"}
    assert {group for group in choices() if group.startswith("policy/")} == wanted


def test_workload_and_settings_have_the_simulators_own_defaults() -> None:
    scenario = scenario_from_config(compose_config())
    assert scenario.workload == Workload()
    assert scenario.settings == Settings()


def test_a_system_makes_its_choices_and_the_command_line_overrides_them() -> None:
    assert chosen(["system=clairvoyant"])["policy/cache"] == "belady"
    made = chosen(["system=clairvoyant", "policy/prediction=transition"])
    assert (made["policy/cache"], made["policy/prediction"]) == ("belady", "transition")
    made = chosen(["policy/prediction=transition", "system=clairvoyant"])  # whatever the order
    assert made["policy/prediction"] == "transition"


def test_a_changed_system_says_what_was_changed() -> None:
    assert compose_config(["system=pinned_popular"]).system.name == "pinned_popular"
    cfg = compose_config(["system=pinned_popular", "policy/cache=lfu"])
    assert cfg.system.name == "pinned_popular with policy/cache=lfu"


def test_sizes_are_given_in_gib() -> None:
    settings = scenario_from_config(compose_config(["cache_gib=1.5", "host_cache_gib=2"])).settings
    assert (settings.cache_bytes, settings.host_cache_bytes) == (3 * 2**29, 2**31)


def test_a_key_that_a_file_leaves_out_can_be_set() -> None:
    base, halved = (scenario_from_config(compose_config(o)).model for o in ([], ["model.experts_bits=2.125"]))
    assert "experts_bits" in OmegaConf.load(CONF / "model" / "gpt_oss_20b.yaml")
    assert halved.expert_bytes < base.expert_bytes
    assert scenario_from_config(compose_config(["model.kv_bits=8"])).model.kv_bits == 8  # not in the file


def test_the_hash_depends_on_the_run_and_not_on_where_it_is_written() -> None:
    one, elsewhere, other = (config_hash(compose_config(o)) for o in ([], ["out=/tmp/x"], ["seed=1"]))
    assert one == elsewhere != other


# ---- files of one's own


def test_every_group_takes_a_file_by_its_path(tmp_path: Path) -> None:
    for group, name in (("model", "gpt_oss_20b"), ("platform", "rtx_3090"), ("system", "clairvoyant")):
        copy = tmp_path / f"my {group}.yaml"  # with a blank in its name
        copy.write_text((CONF / group / f"{name}.yaml").read_text())
        assert compose_config([f"{group}={copy}"])[group] == compose_config([f"{group}={name}"])[group]


def test_a_trace_may_be_a_file_or_a_yaml_beside_one(tmp_path: Path) -> None:
    shipped = data_path("gpt_oss_20b.parquet")
    (tmp_path / "x.parquet").write_bytes(shipped.read_bytes())
    (tmp_path / "x.yaml").write_text("name: mine\npath: x.parquet\n")
    for trace in ("x.parquet", "x.yaml"):
        assert len(scenario_from_config(compose_config([f"trace={tmp_path / trace}"])).trace) == 40


def test_a_policy_of_ones_own_lives_beside_its_yaml(tmp_path: Path) -> None:
    (tmp_path / "beside_policy.py").write_text(
        "from simulator.policies.cache.lru import Lru\n\n\n"
        "class Mine(Lru):\n"
        "    def __init__(self, spare: int = 1) -> None:\n"
        "        super().__init__()\n"
        "        self.spare = spare\n"
    )
    (tmp_path / "mine.yaml").write_text("_target_: beside_policy.Mine\nspare: 2\n")
    cfg = compose_config([f"policy/cache={tmp_path / 'mine.yaml'}"])
    assert scenario_from_config(cfg).system.cache().spare == 2  # type: ignore[attr-defined]


def test_a_system_of_ones_own_needs_no_header_and_is_named_after_its_file(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text("defaults:\n  - override /policy/cache: s3fifo\n")
    cfg = compose_config([f"system={tmp_path / 'ours.yaml'}"])
    assert cfg.system.name == "ours"
    assert cfg.policy.cache._target_.endswith("S3Fifo")


def test_a_model_of_ones_own_may_build_on_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("defaults:\n  - gpt_oss_20b\n  - _self_\nname: more\nkv_bits: 8\n")
    model = scenario_from_config(compose_config([f"model={tmp_path / 'more.yaml'}"])).model
    assert (model.name, model.layers, model.kv_bits) == ("more", 24, 8)


# ---- sweeps


def test_a_sweep_is_every_combination_in_order() -> None:
    assert [point.overrides for point in points(["seed=1,2", "policy/cache=lru,lfu"])] == [
        ("seed=1", "policy/cache=lru"),
        ("seed=1", "policy/cache=lfu"),
        ("seed=2", "policy/cache=lru"),
        ("seed=2", "policy/cache=lfu"),
    ]


def test_a_sweep_takes_files_of_ones_own(tmp_path: Path) -> None:
    copy = tmp_path / "p.yaml"
    copy.write_text((CONF / "platform" / "rtx_3090.yaml").read_text().replace("name: rtx_3090", "name: mine"))
    listed = points([f"platform=rtx_3060,{copy}"])
    assert [point.config["platform"]["name"] for point in listed] == ["rtx_3060", "mine"]


def test_an_experiment_may_bring_its_sweep_and_the_command_line_narrows_it() -> None:
    assert len(points(["experiment=cache_size"])) == 16  # 4 policies x 4 sizes
    listed = points(["experiment=cache_size", "cache_gib=3"])
    assert [point.overrides[-1] for point in listed] == [
        f"policy/cache={name}" for name in ("lru", "lfu", "s3fifo", "belady")
    ]


def test_an_error_in_any_combination_is_found_by_composing_it() -> None:
    with pytest.raises(ConfigError, match="policy/cache=lruu: there is no such choice"):
        points(["policy/cache=lru,lruu"])
