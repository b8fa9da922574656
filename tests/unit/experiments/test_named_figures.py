"""Named figures: their definitions, the command that draws them, and the gallery's page."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments.compose import CONF, choices, chosen
from experiments.explain import ConfigError
from experiments.figures.data import Data
from experiments.figures.definition import figure_file, figure_names, read_definition
from experiments.figures.kinds import KINDS
from experiments.figures.named import prepare, table_of
from experiments.figures.names import NAMES, WORDS, display

ROOT = Path(__file__).parents[3]
SHORT = ["workload.requests=1", "workload.max_decode_tokens=2", "reference=false"]
MINE = """\
description: Two cache policies.
kind: speedup
runs: [experiment=smoke, workload.max_decode_tokens=4, reference=false, cache_gib=2]
sweeps:
  first: [policy/cache=lru]
  second one: ["policy/cache=lfu,fifo"]
names: {lfu: least used}
draw: {group: policy.cache, baseline: lru}
"""


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str, str], str]:
    """`own(old, new)`: the path of MINE with one text in place of another."""

    def write(old: str = "", new: str = "") -> str:
        assert old in MINE
        (tmp_path / "mine.yaml").write_text(MINE.replace(old, new, 1))
        return "./mine.yaml"

    return write


# ---- the shipped ones


def test_there_is_a_named_figure_of_every_kind() -> None:
    assert {read_definition(figure_file(name)).kind for name in figure_names()} == set(KINDS)


def test_the_gallery_shows_every_figure_with_its_text_command_and_a_small_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    page = (ROOT / "docs" / "gallery.md").read_text()
    assert page == importlib.import_module("gallery").page(), "make gallery writes it anew"
    pictures = ROOT / "docs" / "images" / "gallery"
    assert sorted(path.name for path in pictures.iterdir()) == [f"{name}.png" for name in figure_names()]
    for name in figure_names():
        assert f"(images/gallery/{name}.png)\n\n{read_definition(figure_file(name)).description}\n" in page
        assert f"```sh\nmoesim figure {name}\n```" in page
        assert (pictures / f"{name}.png").stat().st_size < 175_000
        with Image.open(pictures / f"{name}.png") as picture:
            assert picture.format == "PNG"
            assert picture.width in (660, 1400)  # 3.3 or 7 inches at 200 dots per inch


# fewer choices, so that the test is quick
CUT = {
    "speedup_platforms": ["platform=rtx_3060,t4_host", "system=on_demand_lru,clairvoyant"],
    "speedup_models": ["policy/cache=lru,belady"],
    "time_breakdown": ["system=on_demand_lru,cpu_in_place"],
    "energy": ["system=on_demand_lru,cpu_in_place"],
    "token_latency": ["system=on_demand_lru,cpu_in_place"],
    "memory_or_time": ["system=on_demand_lru,cpu_in_place", "cache_gib=2,4"],
    "cache_policies": ["policy/cache=lru,belady"],
    "cache_budget": ["cache_gib=2,4"],
    "request_rate": ["workload.requests=2", "workload.rate_per_s=2,4"],
    "near_crossover": ["workload.requests=8", "workload.batch_size=8", "workload.max_decode_tokens=1"],
    "near_break_even": [
        "workload.batch_size=1",
        "platform.links.0.bandwidth_bytes_per_s=32 GB/s,64 GB/s",
    ],
    "hardware_systems": ["workload.batch_size=1"],
    "layouts": ["workload.requests=2", "policy.scheduling.max_batch=16"],
    "instances": ["workload.requests=2", "tenants.count=1,2"],
    "systems_against_budget": [
        "cache_gib=2,4",
        "platform=rtx_4090_i9_14900k",
        "system=on_demand_lru,fiddler",
        "workload.warmup_requests=0",
    ],
}
TWO_SWEEPS = ("sensitivity", "hardware_energy", "hardware_systems", "near_break_even")
ONE_SWEEP = ("systems_against_budget", "layouts", "instances")


@pytest.mark.filterwarnings("ignore::experiments.results.NoiseWarning")
@pytest.mark.parametrize("name", figure_names())
def test_the_rows_of_a_named_figure_can_be_made(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    definition = read_definition(figure_file(name))
    if name in TWO_SWEEPS:
        definition.sweeps = dict(list(definition.sweeps.items())[:2])
    if name in ONE_SWEEP:
        definition.sweeps = dict(list(definition.sweeps.items())[:1])
    if name == "hardware_systems":
        definition.draw["groups"] = {"units beside the GPU": ["MoNDE (MD+LB)"]}
    data, _ = prepare(name, definition, [*SHORT, *CUT.get(name, ())], workers=0)
    table = table_of(definition, data).table
    assert len(table) > 0
    if name in CHECKED:
        CHECKED[name](table)


def an_expert_takes_what_its_cost_model_says(table: pd.DataFrame) -> None:
    """Runs in which every token of a layer asks for one expert, beside the closed form, to a nanosecond."""
    places = table.set_index(["what", "place", "tokens"])["value"]
    assert set(places["run"].index) == {(place, 8) for place in table[table["what"] == "model"]["place"]}
    for place, tokens in places["run"].index:
        assert places["run", place, tokens] == pytest.approx(places["model", place, tokens], abs=1e-9)


def a_machine_is_compared_with_a_rival_on_the_same_one(table: pd.DataFrame) -> None:
    rows = table.set_index("role")
    assert sorted(rows.index) == ["MoNDE (MD+LB)", "baseline", "mark"]
    assert rows["speed_up"].tolist() == pytest.approx((rows["tpot_mean_s"]["baseline"] / rows["tpot_mean_s"]).tolist())
    assert rows.filter(like="energy_").notna().all(axis=None)


def a_map_has_a_speed_up_in_each_cell(table: pd.DataFrame) -> None:
    assert table["speed_up"].notna().all()
    link, inside = (table[column] for column in table if "bytes_per_s" in column)
    assert sorted(zip(link, inside, strict=True)) == [(a, b) for a in (32e9, 64e9) for b in (64e9, 128e9)]
    at = table.set_index([link, inside])["speed_up"]
    assert at[32e9, 128e9] > at[64e9, 128e9]  # the quicker the link, the less a device that computes is worth


CHECKED = {
    "near_crossover": an_expert_takes_what_its_cost_model_says,
    "hardware_systems": a_machine_is_compared_with_a_rival_on_the_same_one,
    "near_break_even": a_map_has_a_speed_up_in_each_cell,
}


def test_systems_that_change_the_answer_are_dashed_in_the_figure_of_all_systems_and_in_no_other_line() -> None:
    definition = read_definition(figure_file("systems_against_budget"))
    parts = [part.partition("=") for overrides in definition.sweeps.values() for part in overrides]
    run = {name for key, _, names in parts if key == "system" for name in names.split(",")}
    grouped = [name for names in definition.draw["groups"].values() for name in names]
    assert sorted(grouped) == sorted(run - {definition.draw["baseline"]})
    changing = set()
    for name in run:
        if re.search("policy/(gating|precision)", (CONF / "system" / f"{name}.yaml").read_text()):
            made = chosen([f"system={name}"])
            if (made["policy/gating"], made["policy/precision"]) != ("routed", "stored"):
                changing.add(name)
    otherwise = {"ktransformers", "pregated_moe"}  # experts that come a layer late; a model trained anew
    assert set(definition.draw["dashed"]) == changing | otherwise


# ---- the command


def test_a_figure_without_runs_is_written_with_the_same_bytes_each_time(call: Callable, tmp_path: Path) -> None:
    for out in ("a", "b"):
        said = call("figure", "operator_roofline", "--out", out)
        assert said == (
            0,
            f"written to {out}: operator_roofline.png, operator_roofline.pdf, operator_roofline.csv\n",
            "",
        )
    for suffix in ("png", "pdf", "csv"):
        first, again = (tmp_path / out / f"operator_roofline.{suffix}" for out in ("a", "b"))
        assert first.read_bytes() == again.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_ones_own_figure_runs_its_sweeps_once_with_the_overrides_and_writes_what_it_draws(
    call: Callable, own: Callable
) -> None:
    command = ["figure", own(), "--workers", "0", "seed=7"]
    said = call(*command)
    assert said == (0, "3 runs; written to runs/figures: mine.png, mine.pdf, mine.csv\n", "")
    drawn = pd.read_csv("runs/figures/mine.csv")
    points = pd.read_parquet("runs/figures/mine/sweep/points.parquet")
    assert list(points["name"]) == ["first", "second one", "second one"]
    assert points["seed"].tolist() == [7, 7, 7]
    assert drawn["policy.cache"].tolist() == ["lru", "lfu", "fifo"]  # as the runs have them
    assert drawn["tokens_per_s"].tolist() == pytest.approx(points["tokens_per_s"].tolist())
    said = call(*command, "--out", "again")
    assert said.out == "3 runs, 3 of them from before; written to again: mine.png, mine.pdf, mine.csv\n"
    for suffix in ("png", "pdf", "csv"):
        assert Path(f"again/mine.{suffix}").read_bytes() == Path(f"runs/figures/mine.{suffix}").read_bytes()


def test_a_figure_from_a_sweep_runs_nothing_and_draws_the_same_or_says_what_is_not_kept(
    call: Callable, own: Callable, tmp_path: Path
) -> None:
    path = own()
    assert call("figure", path, "--workers", "0").code == 0
    (tmp_path / "runs" / "figures" / "mine" / "sweep").rename(tmp_path / "there")
    said = call("figure", path, "--from", "there", "--out", "out")
    assert said == (0, "3 runs read from there; written to out: mine.png, mine.pdf, mine.csv\n", "")
    assert Path("out/mine.png").read_bytes() == Path("runs/figures/mine.png").read_bytes()
    assert not (tmp_path / "runs" / "figures" / "mine" / "sweep").exists()
    for name, sentence in (
        ("token_latency", "a sweep keeps no steps; expected folders of runs, or 'table: requests'."),
        ("operator_roofline", "a sweep keeps no configuration; expected the folder of a run."),
    ):
        assert call("figure", name, "--from", "there") == (2, "", f"there: {sentence}\n")


def test_a_figure_of_steps_keeps_run_folders_that_can_be_drawn_from_again(call: Callable, tmp_path: Path) -> None:
    assert call("figure", "token_latency", *SHORT, "system=on_demand_lru,clairvoyant").code == 0
    folders = sorted((tmp_path / "runs" / "figures" / "token_latency" / "runs").iterdir())
    assert [folder.name.split("-")[0] for folder in folders] == ["0", "1"]
    drawn = pd.read_csv("runs/figures/token_latency.csv")
    steps = pd.read_parquet(folders[0] / "steps.parquet")
    assert drawn.loc[drawn["system"] == "on_demand_lru", "latency_s"].tolist() == pytest.approx(
        steps["latency_s"].tolist()
    )
    sources = [item for folder in folders for item in ("--from", str(folder))]
    assert call("figure", "token_latency", *sources, "--out", "again").code == 0
    assert Path("again/token_latency.csv").read_bytes() == Path("runs/figures/token_latency.csv").read_bytes()
    call("figure", "token_latency", *SHORT, "system=on_demand_lfu")  # the folders are those of the last drawing
    assert len(list((tmp_path / "runs" / "figures" / "token_latency" / "runs").iterdir())) == 1


def test_too_few_requests_for_an_interval_are_noted(call: Callable) -> None:
    said = call("figure", "cache_policies", *SHORT, "cache_gib=2", "policy/cache=lru,lfu", "--workers", "0")
    assert said.code == 0
    assert said.out.startswith("note: an interval over 1 requests is not meaningful; at least 5 are needed.\n2 runs; ")


def test_quantities_of_a_platform_are_drawn_as_numbers_with_their_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: figures.append(self))
    link = "platform.links.0.bandwidth_bytes_per_s"
    points = pd.DataFrame(
        {"point": range(3), link: ["31.5 GB/s", "63 GB/s", 15.75e9], "tpot_mean_s": [0.02, 0.015, 0.03]}
    )
    data = Data("x", names={link: "PCIe"}, points=points)
    drawing = KINDS["tornado"].prepare(data, metric="tpot_mean_s", factors=[link])
    drawing.draw(tmp_path / "x", width_in=3.3)
    axes = figures[0].axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["PCIe (GB/s)"]
    changes = {text.get_text(): text.xy[0] for text in axes.texts}
    assert changes == {"15.75": pytest.approx(50.0), "63": pytest.approx(-25.0)}  # 30 / 20 and 15 / 20 ms
    assert drawing.table[link].tolist() == ["31.5 GB/s", "63 GB/s", 15.75e9]  # the data as they are


# ---- what values are called, and what tells runs apart


FIGURED = [group for group in choices() if group in ("model", "platform", "system") or group.startswith("policy/")]


@pytest.mark.parametrize("group", FIGURED)
def test_every_shipped_choice_has_a_name_of_its_own(group: str) -> None:
    names = [display(choice, group.replace("/", ".")) for choice in choices()[group]]
    assert len(set(names)) == len(names)
    assert [name for name in names if "_" in name or name == "none"] == []


def test_the_name_of_every_platform_is_made_of_known_words() -> None:
    by_words = [choice for choice in choices()["platform"] if choice not in NAMES["platform"]]
    words = {word for choice in by_words for word in choice.split("_") if word.isalpha()}
    assert words <= set(WORDS), "give them in experiments/figures/names.py, or the whole platform a name"


def test_names_are_of_shipped_choices() -> None:
    for column, names in NAMES.items():
        assert set(names) <= set(choices()[column.replace(".", "/")]), column


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        ("s3fifo", "policy.cache", "S3-FIFO"),
        ("mine.yaml", "policy.cache", "mine.yaml"),
        ("my_box", "platform", "my_box"),
        ("deepseek_v3", "model", "DeepSeek-V3"),
        ("rtx_4090_i9_14900k", "platform", "RTX 4090 i9-14900K"),
        ("s3fifo", "policy.host_cache", "S3-FIFO (host)"),
        (6.0, "cache_gib", "6 GiB"),
        (2**16, "settings.chunk_bytes", "64 KiB"),
        (4, "workload.batch_size", "batch size 4"),
        (3, "seed", "seed 3"),
        (None, "cache_gib", "expert cache: default"),
        (True, "workload.synthetic_prefill", "synthetic prefill: true"),
    ],
)
def test_choices_go_by_name_and_numbers_have_their_unit(value: object, column: str, text: str) -> None:
    assert display(value, column) == text


def swept() -> pd.DataFrame:
    """Two policies × two sizes, as a sweep over both leaves them."""
    rows = [(policy, gib) for policy in ("lru", "belady") for gib in (2.0, 4.0)]
    frame = pd.DataFrame(rows, columns=["policy.cache", "cache_gib"])
    frame.insert(0, "point", range(4))
    systems = [f"on_demand_lru with policy/cache={policy}" for policy in frame["policy.cache"]]
    return frame.assign(system=systems, seed=0, tpot_mean_s=[0.04, 0.02, 0.03, 0.01], hit_rate=0.5, pcie_share=1.0)


def test_bars_of_runs_that_differ_in_more_than_their_name_say_in_what_and_so_does_the_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: figures.append(self))
    for name in ("system", "policy.cache"):  # a system by what differs
        drawing = KINDS["time_breakdown"].prepare(Data("x", points=swept()), name=name)
        drawing.draw(tmp_path / "x", width_in=3.3)
        labels = [text.get_text() for text in figures[-1].axes[0].get_yticklabels()]
        assert labels == ["Belady, 4 GiB", "LRU, 4 GiB", "Belady, 2 GiB", "LRU, 2 GiB"]  # the fastest first
        assert drawing.table["cache_gib"].tolist() == [2.0, 4.0, 2.0, 4.0]
        assert drawing.table[name].tolist() == swept()[name].tolist()


def test_a_system_that_was_changed_keeps_its_name_where_others_are_there() -> None:
    systems = ["transition_prefetch", "transition_prefetch with policy/cache=lfu", "on_demand_lru"]
    data = Data("x", points=pd.DataFrame({"point": range(3), "system": systems}))
    names = ["LRU + transitions", "LRU + transitions with LFU", "LRU"]
    assert [data.called(system, "system") for system in systems] == names


@pytest.mark.parametrize(
    ("kind", "draw", "keys"),
    [
        ("speedup", {"group": "policy.cache", "baseline": "lru", "value": "tpot_mean_s"}, "policy.cache LRU"),
        ("cache_size", {}, "policy.cache LRU, cache_gib 2.0"),
        ("tornado", {"metric": "tpot_mean_s", "factors": ["cache_gib"]}, "expert cache (GiB) 2.0"),
    ],
)
def test_rows_that_a_kind_cannot_tell_apart_are_refused_with_the_column(
    tmp_path: Path, kind: str, draw: dict, keys: str
) -> None:
    points = swept()
    if kind == "cache_size":
        points = pd.concat([points, points.assign(seed=1, point=range(4, 8))], ignore_index=True)
    column = {"speedup": "cache_gib", "cache_size": "seed", "tornado": "policy.cache"}[kind]
    drawing = KINDS[kind].prepare(Data("x", points=points), **draw)
    with pytest.raises(ConfigError) as refused:
        drawing.draw(tmp_path / "x", width_in=3.3)
    values = {"cache_gib": "2, 4", "seed": "0, 1", "policy.cache": "lru, belady"}[column]
    mend = f"they differ in '{column}', choose one of its values: {values}"
    assert str(refused.value).endswith(f"2 rows have {keys}; expected one ({mend}).")


def test_points_of_a_front_are_named_by_what_series_and_axes_do_not_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: figures.append(self))
    options = {"x": "energy_j", "y": "tpot_mean_s", "minimise": ["energy_j", "tpot_mean_s"], "series": "policy.cache"}
    points = swept().assign(energy_j=[1.0, 2.0, 3.0, 4.0])
    drawing = KINDS["pareto"].prepare(Data("x", points=points), **options)
    drawing.draw(tmp_path / "x", width_in=3.3)
    assert drawing.table["front"].tolist() == [True, True, False, True]  # 3 J and 30 ms lose to 2 J and 20 ms
    assert [text.get_text() for text in figures[0].legends[1].get_texts()] == ["1  2 GiB", "2  4 GiB", "3  4 GiB"]
    assert drawing.table["cache_gib"].tolist() == [2.0, 4.0, 2.0, 4.0]


def test_ratios_are_written_under_their_own_names_with_the_baselines_value(call: Callable) -> None:
    call("figure", "cache_policies", *SHORT, "cache_gib=2", "policy/cache=lru,lfu", "--workers", "0")
    (row,) = pd.read_csv("runs/figures/cache_policies.csv").to_dict("records")
    assert (row["policy.cache"], row["cache_gib"], row["metric"]) == ("lfu", 2.0, "tpot_s")
    assert {"ratio_low", "ratio_high"} <= set(row)
    assert row["ratio"] == pytest.approx(row["value"] / row["baseline_value"])
    points = pd.read_parquet("runs/figures/cache_policies/sweep/points.parquet").set_index("policy.cache")
    assert row["baseline_value"] == pytest.approx(points.loc["lru", "tpot_mean_s"])


def test_every_keyword_of_a_kind_is_explained_in_the_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    gallery = importlib.import_module("gallery")
    for kind in KINDS.values():
        given = [p for p in inspect.signature(kind.prepare).parameters.values() if p.kind is p.KEYWORD_ONLY]
        rows = gallery.keywords(kind.prepare)
        assert [row[0] for row in rows] == [p.name for p in given]
        assert [row[1] == "required" for row in rows] == [p.default is p.empty for p in given]
        assert all(meaning for _, _, meaning in rows)
    assert ("metric", "`tpot_s`") in [row[:2] for row in gallery.keywords(KINDS["bars"].prepare)]


# ---- what cannot be drawn


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("kind: speedup", "kind: speedups", "kind speedups: there is no such kind; did you mean 'speedup'?"),
        ("kind: speedup\n", "", "kind: this key has no value; give it one."),
        ("names:", "name:", "unknown key 'name'; did you mean 'names'?"),
        ("kind:", "width: broad\nkind:", "width broad: there is no such width (there are: column, page)."),
        ("  first: [policy/cache=lru]", "  first: lru", "sweeps: expected names with a list of overrides each."),
        ("  first:", "  a/b:", "sweeps: 'a/b' is no name; expected letters, digits, blanks and _.+-()."),
        ("group:", "grop:", "draw: unknown key 'grop'; did you mean 'group'?"),
        (", baseline: lru", "", "draw: baseline: this key has no value; give it one."),
        ("group: policy.cache", "group: [a]", "draw: group: expected text."),
    ],
)
def test_a_definition_that_cannot_be_names_file_and_key(
    call: Callable, own: Callable, old: str, new: str, sentence: str
) -> None:
    assert call("figure", own(old, new)) == (2, "", f"mine.yaml: {sentence}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sensitivty"], "sensitivty: there is no figure of that name; did you mean 'sensitivity'?"),
        (["./none.yaml"], "./none.yaml: there is no such file; expected the YAML of a figure."),
        (
            ["cache_budget", "seed=1", "--from", "x"],
            "seed=1: with --from nothing is run, so that nothing can be overridden.",
        ),
        (
            ["decode_step", "--from", "x"],
            "figure decode_step: kind timeline needs runs in memory; draw it without --from.",
        ),
        (["decode_step", "seed=1,2"], "figure decode_step: it shows one run, and 2 are given; choose one of them."),
        (["cache_budget", "--workers", "-1"], "--workers is -1; expected 0 (no other process) or more."),
        (["cache_budget", "sed=1"], "unknown key 'sed' in 'sed=1'; did you mean 'seed'?"),
    ],
)
def test_a_request_that_cannot_be_is_refused_in_one_sentence(
    call: Callable, arguments: list[str], sentence: str
) -> None:
    assert call("figure", *arguments) == (2, "", f"{sentence}\n")


def test_a_sweep_over_more_than_the_figure_shows_is_narrowed_by_where(call: Callable, own: Callable) -> None:
    lists = ["policy/cache=lru,lfu,fifo", "platform=rtx_3060,rtx_3090", "cache_gib=2,2.5"]
    smoke = ["experiment=smoke", "workload.max_decode_tokens=2", "reference=false"]
    assert call("sweep", *smoke, *lists, "--out", "swept", "--workers", "0").code == 0
    drawing = ["figure", own("kind", "kind"), "--from", "swept"]
    said = call(*drawing, "--where", "cache_gib=2.50")
    assert (said.code, said.out) == (2, "")
    assert "they differ in 'platform', choose one of its values: rtx_3060, rtx_3090" in said.err
    conditions = ("platform=RTX_3090", "cache_gib=2.50", "policy/cache=lru,lfu")
    said = call(*drawing, *(word for condition in conditions for word in ("--where", condition)))
    assert (said.code, said.err) == (0, "")
    drawn = pd.read_csv("runs/figures/mine.csv")
    assert drawn["policy.cache"].tolist() == ["lru", "lfu"]
    for condition, sentence in {
        "platform=rtx_4090": "no run has platform rtx_4090; there are rtx_3060, rtx_3090.",
        "platfrm=rtx_3060": "there is no column 'platfrm'; did you mean 'platform'?",
        "platform": "expected COLUMN=VALUE, such as platform=rtx_3060.",
    }.items():
        assert call(*drawing, "--where", condition) == (2, "", f"--where {condition}: {sentence}\n")


def test_where_chooses_among_runs_that_are_there(call: Callable) -> None:
    said = call("figure", "cache_budget", "--where", "seed=1")
    assert said == (2, "", "--where seed=1: it chooses among runs that are there; give their folder by --from.\n")


def test_a_figure_of_which_runs_fail_is_refused_with_the_reason(call: Callable, own: Callable) -> None:
    said = call("figure", own("cache_gib=2", "'cache_gib=-1'"), "--workers", "0")
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        "figure mine: 3 of its 3 runs failed, the first (0) with: cache_gib is -1.0; expected a size above 0 in GiB,"
        " or null.\n"
    )
    assert not Path("runs/figures/mine.png").exists()
