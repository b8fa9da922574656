"""Loading: run folders, sweep folders and folders of them become one frame with the same columns."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pandas as pd
import pytest

from experiments import results
from experiments.compose import compose_config
from experiments.explain import ConfigError
from experiments.run import run_config, write_result
from experiments.sweep import sweep

SHORT = ["experiment=smoke", "workload.max_decode_tokens=3", "reference=false"]


def make_run(folder: Path, *overrides: str) -> Path:
    cfg = compose_config([*SHORT, *overrides])
    write_result(run_config(cfg), cfg, folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/: `a` with LRU, `deep/b` with a narrower prediction, `swept` with two policies at two sizes."""
    folder = tmp_path_factory.mktemp("results") / "runs"
    make_run(folder / "a", "cache_gib=2")
    make_run(folder / "deep" / "b", "policy/prediction=transition", "policy.prediction.width=2", "model.experts_bits=8")
    sweep([*SHORT, "policy/cache=lru,fifo", "cache_gib=2,4"], folder / "swept", workers=0)
    return folder


def test_a_run_folder_is_one_row_with_its_configuration_and_its_summary(made: Path) -> None:
    points = results.load(made / "a")
    summary = json.loads((made / "a" / "summary.json").read_text())
    row = points.iloc[0]
    assert len(points) == 1
    assert (row["model"], row["platform"], row["trace"]) == ("gpt_oss_20b", "rtx_3060", "gpt_oss_20b")
    assert (row["policy.cache"], row["policy.prefetch"]) == ("lru", "ahead")
    assert (row["system"], row["cache_gib"], row["workload.max_decode_tokens"]) == ("on_demand_lru", 2.0, 3)
    assert row["tokens_per_s"] == summary["tokens_per_s"]
    assert row["pcie_share"] == summary["attribution"]["pcie"]
    assert points["ttft_mean_s"].dtype == "float64"
    assert pd.isna(row["ttft_mean_s"])


def test_a_run_and_a_sweep_point_of_one_configuration_agree_in_every_common_column(made: Path) -> None:
    run, points = results.load(made / "a"), results.load(made / "swept")
    same = points[(points["policy.cache"] == "lru") & (points["cache_gib"] == 2)]
    common = [c for c in run if c in same and c not in ("point", "point_id", "folder", "system")]
    assert {"policy.pipeline", "settings.chunk_bytes", "trace_digest", "hit_rate", "hbm_share"} <= set(common)
    for column in common:
        one, other = run[column].iloc[0], same[column].iloc[0]
        assert one == other or (pd.isna(one) and pd.isna(other)), column


def test_a_changed_parameter_is_a_column_beside_the_name_of_the_choice(made: Path) -> None:
    points = results.load(made / "a", made / "deep")
    assert list(points["policy.prediction"]) == ["none", "transition"]
    assert points["policy.prediction.width"].iloc[1] == 2
    assert pd.isna(points["policy.prediction.width"].iloc[0])
    assert list(points["model"]) == ["gpt_oss_20b", "gpt_oss_20b"]
    assert list(points["model.experts_bits"]) == [4.25, 8]  # gpt-oss-20b has 4.25


def test_a_folder_of_folders_is_read_to_the_bottom_in_order_and_numbered_anew(made: Path) -> None:
    points = results.load(made)
    assert [Path(folder).name for folder in points["folder"]] == ["a", "b", "swept", "swept", "swept", "swept"]
    assert list(points["point"]) == [0, 1, 2, 3, 4, 5]
    assert list(points["policy.cache"]) == ["lru", "lru", "lru", "lru", "fifo", "fifo"]
    shares = points[[column for column in points if column.endswith("_share")]]
    assert shares.sum(axis=1).tolist() == pytest.approx([1.0] * 6)


def test_a_sweep_alone_keeps_its_numbers(made: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(made / "swept", tmp_path / "copy")
    for name in ("points", "requests"):
        table = pd.read_parquet(copy / f"{name}.parquet")
        table[table["point"] > 1].to_parquet(copy / f"{name}.parquet")  # the first two failed
    assert list(results.load(copy)["point"]) == [2, 3]
    both = results.load(made / "a", copy)
    assert list(both["point"]) == [0, 3, 4]  # one more than the largest before, plus its own
    assert sorted(results.requests(made / "a", copy)["point"].unique()) == [0, 3, 4]


def test_requests_join_their_points(made: Path) -> None:
    points, served = results.load(made), results.requests(made)
    assert len(served) == 6 * 2  # two requests each
    joined = served.merge(points, on="point", suffixes=("", "_of_run"))
    for _, mine in joined.groupby("point"):
        assert mine["hits"].sum() / mine["accesses"].sum() == pytest.approx(mine["hit_rate"].iloc[0])
        decode_s = (mine["tpot_s"] * mine["decode_tokens"]).sum()
        assert decode_s / 6 == pytest.approx(mine["tpot_mean_s"].iloc[0])  # 2 requests x 3 tokens


def test_provenance_travels_with_the_frame(made: Path) -> None:
    points = results.load(made)
    told = points.attrs["provenance"]
    assert told[(made / "a").as_posix()]["trace"]["digest"] == points["trace_digest"].iloc[0]
    assert pickle.loads(pickle.dumps(points)).attrs == points.attrs
    assert points[points["cache_gib"] == 2].attrs == points.attrs


def test_an_own_policy_goes_by_its_class(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from simulator.policies.cache.fifo import Fifo\n\n\nclass Mine(Fifo):\n    'First in, first out.'\n"
    )
    (tmp_path / "mine.yaml").write_text("_target_: mine.Mine\n")
    run = make_run(tmp_path / "run", f"policy/cache={tmp_path / 'mine.yaml'}")
    assert results.load(run)["policy.cache"].tolist() == ["mine.Mine"]


def test_two_machines_of_one_name_differ_in_the_columns_that_differ(tmp_path: Path) -> None:
    shipped = (Path(__file__).parents[3] / "experiments/conf/platform/rtx_3060.yaml").read_text()
    for name, bandwidth in (("a", "31.5 GB/s"), ("b", "12 GB/s")):
        text = shipped.replace("name: rtx_3060", "name: my_box").replace("31.5 GB/s", bandwidth)
        (tmp_path / f"{name}.yaml").write_text(text)
        make_run(tmp_path / "runs" / name, f"platform={tmp_path / f'{name}.yaml'}")
    points = results.load(tmp_path / "runs")
    assert list(points["platform"]) == ["my_box", "my_box"]
    assert list(points["platform.links.0.bandwidth_bytes_per_s"]) == ["31.5 GB/s", "12 GB/s"]


# ---- refusals: one sentence each


def refused(*paths: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        results.load(*paths)
    assert str(caught.value).count(". ") == 0
    return str(caught.value)


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    assert "there is no such folder" in refused(tmp_path / "nothing")
    assert "nothing here was written by moesim" in refused(tmp_path)
    assert refused().startswith("expected the path")


@pytest.mark.parametrize("name", ["summary.json", "provenance.json", "config.yaml"])
def test_half_a_run_folder_is_refused_and_the_missing_file_named(name: str, made: Path, tmp_path: Path) -> None:
    half = shutil.copytree(made / "a", tmp_path / "half")
    (half / name).unlink()
    assert refused(tmp_path) == f"{half}: there is no {name}; make the folder again."


def test_damaged_files_are_refused_by_name(made: Path, tmp_path: Path) -> None:
    for name, words in (("summary.json", "not JSON"), ("config.yaml", "not YAML")):
        copy = shutil.copytree(made / "a", tmp_path / name / "a")
        (copy / name).write_text("{'a: [")
        assert str(copy / name) in refused(copy)
        assert words in refused(copy)
    copy = shutil.copytree(made / "swept", tmp_path / "swept")
    (copy / "points.parquet").write_bytes(b"PAR1")
    assert "cannot be read as Parquet" in refused(copy)
    (copy / "points.parquet").unlink()
    assert "the 4 points that are finished are kept, and the same `moesim sweep` writes them" in refused(copy)
    shutil.rmtree(copy / "journal")
    assert "no point of this sweep has finished" in refused(copy)


def test_missing_requests_are_refused_where_they_are_asked_for(made: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(made / "a", tmp_path / "a")
    (copy / "requests.parquet").unlink()
    assert len(results.load(copy)) == 1
    with pytest.raises(ConfigError, match=r"there is no requests\.parquet"):
        results.requests(copy)


def test_hidden_folders_and_links_are_passed_over(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "a", tmp_path / "a")
    shutil.copytree(made / "a", tmp_path / ".a.unfinished")
    (tmp_path / "latest").symlink_to(tmp_path / "a")
    assert len(results.load(tmp_path)) == 1
