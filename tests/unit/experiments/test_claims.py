"""Published claims: files are read strictly, runs are shared, figures are what the runs give, pages say so."""

from __future__ import annotations

import contextlib
import io
import re
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml

from experiments.catalogue import load
from experiments.cli import main
from experiments.compose import choices, chosen, compose_config
from experiments.explain import ConfigError
from experiments.run import plain, run_config, trace_path
from experiments.validation.published import system_page
from experiments.validation.published.engines import read_engines
from experiments.validation.published.measures import is_inside, mean, nearest_in
from experiments.validation.published.needs import shipped
from experiments.validation.published.reading import claim_sets, join, read_paper, read_papers
from traces import open_trace

ROOT = Path(__file__).parents[3]
TINY = ["workload.requests=1", "workload.max_decode_tokens=3", "reference=false"]
KNOWN = {"source": "Table 1", "confidence": "read_source"}
pages = cache(system_page.pages)  # of all systems, seconds


def ratio(**changes):
    """A claim that 4 GiB decode faster than 1 GiB."""
    return {
        "id": "more_memory",
        "says": "4 GiB over 1 GiB",
        **KNOWN,
        "published": 1.5,
        "unit": "x",
        "band": [1.0, 9.0],
        "band_reason": "the sign",
        "runs": {"common": TINY[:2], "ours": ["cache_gib=4"], "rival": ["cache_gib=1"]},
        "metric": {"ratio": "tokens_per_s", "of": "ours", "over": "rival"},
        **changes,
    }


def table(**changes):
    """A table of the same two runs and a rival that is not simulated."""
    return {
        "id": "table_1",
        "says": "Time per token",
        **KNOWN,
        "unit": "ms",
        "metric": {"value": "tpot_mean_s"},
        "common": TINY[:2],
        "columns": {"4 GiB": ["cache_gib=4"], "1 GiB": ["cache_gib=1"]},
        "rows": [
            {"name": "LRU", "overrides": ["policy/cache=lru"], "published": [40.0, 80.0]},
            {"name": "theirs", "published": [30.0, None]},
        ],
        **changes,
    }


def write(folder, name="one", **content):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"title": "A system", "reference": "arXiv 1", **content}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


def validate(folder, out, *more):
    said, wrong = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong):
        kept = ["--runs", str(folder.parent / "kept"), "--workers", "0"]
        code = main(["validate", "claims", str(folder), "--out", str(out), *kept, *more])
    return code, said.getvalue(), wrong.getvalue()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A small set through the whole command: folder, what was printed, the CSV by id and cell."""
    top = tmp_path_factory.mktemp("claims")
    claims = [
        ratio(),
        ratio(
            id="missed", published=[2, 3], band=[50, None], explains_miss="The bus is faster.", confidence="figure_read"
        ),
        ratio(id="percent", unit="%", published=10, metric={"change": "tokens_per_s", "of": "ours", "over": "rival"}),
        ratio(id="sign", unit="sign", published=1, band=1, metric={"sign": "hit_rate", "of": "ours", "over": "rival"}),
        ratio(
            id="waits",
            unit="%",
            confidence="recalled",
            band=None,
            band_reason="",
            metric={"share": ["pcie", "hbm"], "of": "ours"},
            runs={"ours": [*TINY[:2], "cache_gib=1"]},
        ),
        ratio(id="best", each=[["seed=0"], ["policy/cache=lfu"]], mean="max"),
    ]
    tables = [table(within=0.1, within_reason="a guess")]
    folder = write(top / "tiny", claims=claims, tables=tables, cannot_show="quality")
    code, said, wrong = validate(folder, top / "out")
    assert (code, wrong) == (0, "")
    rows = pd.read_csv(top / "out" / "tiny.csv").set_index(["id", "row", "column"])
    return top, said, rows


@pytest.fixture(scope="module")
def summaries():
    """Budget in GiB -> summary of the run that the claims name."""
    return {gib: run_config(compose_config([*TINY, f"cache_gib={gib}"])).summary for gib in (1, 4)}


def test_figures_are_those_of_the_runs(done, summaries):
    rows = done[2].reset_index().set_index("id")
    speed_up = summaries[4]["tokens_per_s"] / summaries[1]["tokens_per_s"]
    assert rows.ours["more_memory"] == pytest.approx(speed_up)
    assert rows.ours["percent"] == pytest.approx(100 * (speed_up - 1))
    assert rows.ours["sign"] == 1
    waits = summaries[1]["attribution"]
    assert rows.ours["waits"] == pytest.approx(100 * (waits["pcie"] + waits["hbm"]))
    assert rows.ours["best"] >= speed_up  # the larger of two, one of which is the first claim
    cells = rows.loc["table_1"].set_index(["row", "column"]).ours
    assert cells["LRU", "4 GiB"] == pytest.approx(1e3 * summaries[4]["tpot_mean_s"])
    assert cells["LRU", "1 GiB"] == pytest.approx(1e3 * summaries[1]["tpot_mean_s"])
    assert pd.isna(cells["theirs", "4 GiB"])


def test_equal_runs_are_run_once(done):
    """Six claims and a table ask for 4 and 1 GiB under LRU and under LFU: four runs, though 16 are named."""
    assert "\n4 runs, 0 failed\n" in done[1]


def test_verdicts_and_weights(done):
    rows = done[2].reset_index().set_index("id")
    assert (rows.weight["more_memory"], rows.weight["missed"], rows.weight["waits"]) == ("asserted", "scored", "shown")
    assert rows.loc[["more_memory", "missed", "sign"], "inside"].tolist() == [True, False, True]
    assert pd.isna(rows.inside["waits"])
    assert rows.ours_over_published["missed"] == pytest.approx(rows.ours["missed"] / 2)  # ours lies below 2 to 3
    inside = rows.loc["table_1"].dropna(subset="ours")
    expected = [abs(row.ours / row.published_low - 1) <= 0.1 for row in inside.itertuples()]
    assert inside.inside.tolist() == expected


def test_the_page_says_what_was_found_and_how_to_repeat_it(done):
    text = (done[0] / "out" / "tiny.md").read_text()
    assert "**out**" in text
    assert "**why not:** The bus is faster." in text
    assert "what a simulator cannot show: quality" in text
    assert "![Time per token](tiny/one_table_1.png)" in text
    assert (done[0] / "out" / "tiny" / "one_table_1.png").is_file()
    commands = re.findall(r"^moesim run (.*)$", text, flags=re.M)
    assert "reference=false workload.requests=1 workload.max_decode_tokens=3 cache_gib=4" in commands
    for line in text.splitlines():
        if line.startswith("| `"):
            assert line.count(" | ") == 7, line


def test_the_same_runs_give_the_same_bytes_and_are_not_repeated(done):
    top = done[0]
    code, said, _ = validate(top / "tiny", top / "again")
    assert code == 0
    assert "4 runs, 4 of them from before" in said
    for path in sorted((top / "out").rglob("*.*")):
        assert path.read_bytes() == (top / "again" / path.relative_to(top / "out")).read_bytes()


def test_a_run_that_fails_is_told_counts_as_out_and_gives_exit_code_1(tmp_path):
    runs = {"common": TINY[:2], "ours": ["cache_gib=999"], "rival": ["cache_gib=1"]}
    folder = write(tmp_path / "set", claims=[ratio(), ratio(id="too_much", runs=runs)])
    code, said, _ = validate(folder, tmp_path / "out")
    assert code == 1
    assert "asserted: 1 of 2 in band" in said
    text = (tmp_path / "out" / "set.md").read_text()
    assert "**failed**" in text
    assert "failed: run 'ours' failed: " in text


def test_a_function_measures_what_no_key_tells(tmp_path):
    counted = {"python": "tests.unit.experiments.test_claims.requests_of", "arguments": {"name": "ours", "add": 2}}
    alone = {"python": "math.hypot"}
    claims = [
        ratio(id="counted", unit="count", metric=counted, published=3, band=3, runs={"ours": [*TINY[:2]]}),
        ratio(id="wrong", unit="count", metric=alone, published=5, band=5, runs={"ours": [*TINY[:2]]}),
    ]
    folder = write(tmp_path / "set", claims=claims[:1])
    assert "ours 3" in validate(folder, tmp_path / "out")[1]
    code, _, wrong = validate(write(tmp_path / "set", claims=claims[1:]), tmp_path / "out")
    assert code == 2
    assert "claim 'wrong': metric.python math.hypot: " in wrong


def requests_of(runs, name, add):
    return len(runs[name].requests["request"]) + add


def test_a_constant_of_a_framework_is_fitted_on_one_column_and_not_counted(tmp_path):
    """Published figures made with 1.5 ms per layer: the fit finds them again; the other column is predicted."""
    made = [*TINY, "settings.framework_layer_s=1.5e-3"]
    runs = [run_config(compose_config([*made, f"cache_gib={gib}"])) for gib in (4, 1)]
    times = [1e3 * run.summary["tpot_mean_s"] for run in runs]
    row = {"name": "LRU", "overrides": ["policy/cache=lru"], "published": times}
    parts = table(rows=[row], within=0.01, within_reason="made by ourselves")
    folder = write(tmp_path / "set", tables=[parts], engine="torch")
    engines = tmp_path / "engines.yaml"
    engines.write_text("# fitted constants\ntorch: {paper: one, table: table_1, column: 4 GiB}\n")
    code, said, wrong = validate(folder, tmp_path / "out", "--fit-engines")
    assert (code, wrong) == (0, "")
    assert "torch: 1.5" in said
    assert engines.read_text().startswith("# fitted constants\n")
    assert read_engines(engines)["torch"].framework_layer_s == pytest.approx(1.5e-3, rel=2e-3)
    assert validate(folder, tmp_path / "out")[0] == 0
    cells = pd.read_csv(tmp_path / "out" / "set.csv").set_index("column")
    assert cells.fitted.fillna("").tolist() == ["torch", ""]
    assert cells.counted.tolist() == [False, True]
    assert bool(cells.inside["1 GiB"]) is True
    assert "*fitted*" in (tmp_path / "out" / "set.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claim": {"sayss": "x"}}, "claim 'more_memory': unknown field 'sayss'; did you mean 'says'?"),
        ({"claim": {"confidence": "sure"}}, "confidence is 'sure'; expected one of read_source"),
        ({"claim": {"unit": "furlongs"}}, "unit is 'furlongs'; expected one of x"),
        ({"claim": {"band": None}}, "band is missing; a figure with confidence read_source needs one."),
        ({"claim": {"band_reason": ""}}, "band_reason is missing"),
        ({"claim": {"band": [2, 1]}}, "band is [2, 1]; expected a number, or [low, high]"),
        ({"claim": {"published": "1.5"}}, "published is '1.5'; expected a number"),
        ({"claim": {"metric": {"ratio": "x", "of": "ours"}}}, "metric.over is missing"),
        ({"claim": {"metric": {"value": "x", "of": "mine"}}}, "metric.of is 'mine', which is no run"),
        ({"claim": {"metric": {"value": "x", "of": "ours"}}}, "runs.rival is used by no part of metric."),
        ({"claim": {"metric": {"of": "ours"}}}, "metric must have one of value"),
        ({"claim": {"mean": "median"}}, "mean is 'median'; expected one of arithmetic"),
        ({"claim": {"runs": {"ours": "cache_gib=1", "rival": []}}}, "runs.ours must be a list of overrides"),
        ({"claim": {"runs": {"ours": ["lru"], "rival": []}}}, "runs.ours holds 'lru'; expected overrides"),
        ({"claim": {"engines": {"our": "x"}}}, "engines.our names no run; did you mean 'ours'?"),
        ({"engine": "torch"}, "engine 'torch' is not in engines.yaml"),
        ({"table": {"rows": [{"name": "a", "published": [1.0]}]}}, "rows[0].published has 1 numbers; expected 2"),
        ({"table": {"rows": [{"name": "a", "published": [None, None]}]}}, "every published figure of its rows is null"),
        ({"table": {"within": 0.2}}, "within_reason is missing"),
        ({"table": {"id": "more_memory"}}, "claim 'more_memory' is there twice"),
        ({"tables": "x"}, "field 'tables' must be a list, got 'x'."),
        ({"claims": [], "tables": []}, "expected at least one entry in claims or tables."),
    ],
)
def test_what_is_wrong_is_said_with_file_claim_and_key(tmp_path, changes, message):
    content = {
        "claims": [ratio(**changes.pop("claim", {}))],
        "tables": [table(**changes.pop("table", {}))],
        **changes,
    }
    folder = write(tmp_path / "set", **content)
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        read_papers(folder)
    assert str(error.value).startswith(str(folder / "one.yaml"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cache_gib=1,2"], "'cache_gib=1,2' gives several values; a run of a claim has one, see `each`."),
        (["platform=no_such_box"], "platform=no_such_box: there is no such choice"),
        (["cache_gob=1"], "unknown key 'cache_gob'"),
    ],
)
def test_overrides_that_cannot_be_run_end_in_one_sentence(tmp_path, overrides, message):
    folder = write(tmp_path / "set", claims=[ratio(runs={"ours": overrides, "rival": ["cache_gib=1"]})])
    code, _, wrong = validate(folder, tmp_path / "out")
    assert code == 2
    assert wrong.count("\n") == 1
    assert wrong.startswith(str(folder / "one.yaml"))
    assert message in wrong


def test_a_key_that_the_summary_lacks_is_named_after_the_run(tmp_path):
    folder = write(tmp_path / "set", claims=[ratio(metric={"ratio": "token_per_s", "of": "ours", "over": "rival"})])
    code, _, wrong = validate(folder, tmp_path / "out")
    assert code == 2
    assert "claim 'more_memory': metric 'token_per_s' is no key of the summary; did you mean 'tokens_per_s'?" in wrong


def test_only_some_files_are_read(tmp_path):
    folder = write(tmp_path / "set", claims=[ratio()])
    (folder / "broken.yaml").write_text("claims: 3\n")
    assert [paper.name for paper in read_papers(folder, ["one"])] == ["one"]
    with pytest.raises(ConfigError, match=r"--only on: there are no such claims in .*did you mean 'one'"):
        read_papers(folder, ["on"])


def test_the_last_override_of_a_key_counts():
    assert join(("a=1", "b=2"), ("a=3", "reference=true")) == ("reference=true", "a=3", "b=2")


def test_lists_in_lists_are_opened(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(
        """
title: A
reference: B
lists: [&small [workload.requests=1, seed=1]]
claims:
  - {id: a, says: b, source: c, confidence: derived, unit: x, published: 1, metric: {value: tokens_per_s, of: ours},
     runs: {ours: [*small, seed=2]}}
"""
    )
    assert list(read_paper(path, {}).runs()) == [("reference=false", "workload.requests=1", "seed=2")]


def test_bands_include_their_ends_and_may_be_open():
    assert is_inside(1.0, (1.0, 2.0))
    assert is_inside(1e9, (1.0, None))
    assert not is_inside(0.99, (1.0, None))
    assert nearest_in(5.0, (1.0, 2.0)) == 2.0
    assert (mean("geometric", [1, 4]), mean("min", [1, 4]), mean("arithmetic", [1, 4])) == (2, 1, 2.5)


def test_the_shipped_claims_can_be_read_and_name_what_there_is():
    known = choices()
    for folder in claim_sets().values():
        for paper in read_papers(folder):
            assert paper.system is None or paper.system in known["system"], paper.path
            for overrides in paper.runs():
                for override in overrides:
                    group, _, choice = override.partition("=")
                    assert group not in known or choice in known[group], f"{paper.path}: {override}"


def test_the_pages_of_systems_are_up_to_date():
    """Otherwise: moesim validate offloading --pages docs/systems"""
    folder = ROOT / "docs" / "systems"
    texts = pages()
    assert sorted(path.name for path in folder.glob("*.md")) == sorted(texts)
    assert [name for name, text in texts.items() if (folder / name).read_text(encoding="utf-8") != text] == []


def test_a_page_of_ones_own_claims_names_the_folder_and_links_to_nothing_else(tmp_path):
    folder = write(tmp_path / "mine", claims=[ratio()], system="on_demand_lru")
    assert validate(folder, tmp_path / "out")[0] == 0
    text = (tmp_path / "out" / "mine.md").read_text()
    assert f"`moesim validate claims {folder}`" in text
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    assert all(link.startswith("#") for link in links)


def test_a_file_in_place_of_a_folder_of_claims_is_refused(tmp_path):
    file = write(tmp_path / "mine", claims=[ratio()]) / "one.yaml"
    assert validate(file, tmp_path / "out") == (2, "", f"{file}: is a file; give its folder.\n")


def test_what_a_synthetic_trace_is_said_to_hold_is_what_it_holds():
    """Pages read recipes; `open_trace` reads what was drawn."""
    for name in ("mixtral_8x7b", "qwen2_57b_a14b", "switch_base_8"):
        meta = open_trace(trace_path(plain(load("trace", name)))).meta
        assert shipped()[name] == (meta.guess_distances, meta.has_weights, meta.has_probabilities)


@pytest.mark.parametrize(
    "name", ["adapmoe", "daop", "hobbit", "hybrimoe", "lookahead_prefetch", "mixtral_offloading", "swapmoe"]
)
def test_the_command_of_a_page_runs(name, tmp_path):
    """Those that need what the default trace lacks, and one that does not."""
    text = pages()[f"{name}.md"]
    command = re.findall(r"^moesim run (.*)$", text, flags=re.M)[0]
    assert run_config(compose_config([*command.split(), *TINY])).summary["tokens_per_s"] > 0
    assert ("It needs a trace with look-ahead guesses" in text) == ("trace=" in command)


@pytest.mark.parametrize("name", ["cpu_in_place", "transition_prefetch"])
def test_the_page_of_a_system_names_the_choices_that_a_run_has(name):
    """Pages read presets as they stand; a run composes them."""
    text = pages()[f"{name}.md"]
    told = {
        role: (choice, values) for role, choice, values in re.findall(r"\| `(\w+)` \| [*`]+(\w+)[*`]+ \| (.*) \|", text)
    }
    made = chosen([f"system={name}"])
    config = compose_config([f"system={name}"])
    for role, (choice, values) in told.items():
        assert made[f"policy/{role}"] == choice
        keys = re.findall(r"`(\w+)=", values)
        assert keys == [key for key in config.policy[role] if key != "_target_"]
    assert set(told) == set(config.policy)
