"""The pages that are made from the program tell of all of it."""

import importlib
import re
from pathlib import Path

import pytest
import yaml

from experiments.compose import choices, chosen
from experiments.schema import Config
from hwmodels import Platform
from hwmodels.energy import flop_pj, memory_pj_per_bit

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs" / "_ext")
        yield importlib.import_module("pages")


def test_the_page_of_policies_lists_every_choice_and_system(pages):
    made = importlib.import_module("policy_choices")
    page = made.PAGE.read_text(encoding="utf-8")
    assert made.with_choices(page) == page, "run python docs/_ext/policy_choices.py"


def test_the_page_of_energy_has_every_constant_and_what_gpus_draw_by_them(pages):
    made = importlib.import_module("energy_constants")
    page = made.PAGE.read_text(encoding="utf-8")
    assert made.with_constants(page) == page, "run python docs/_ext/energy_constants.py"
    rows = re.findall(
        r"^\| (A100 80 GB|RTX \d+) \| (\d+) W \| (\d+) W \| (\d+) W \| (\d+) W \| (\d+) W \|$", page, flags=re.M
    )
    platforms = {"A100 80 GB": "a100_host", "RTX 4090": "rtx_4090", "RTX 3060": "rtx_3060"}
    assert [row[0] for row in rows] == list(platforms)
    for name, *told in rows:
        node = yaml.safe_load((ROOT / "experiments" / "conf" / "platform" / f"{platforms[name]}.yaml").read_text())
        gpu = Platform.from_mapping(node).device("gpu0")
        memory_w = memory_pj_per_bit(gpu).value * 8e-12 * gpu.memory_read_bytes_per_s
        flops_w = flop_pj(gpu, "bf16").value * 1e-12 * gpu.peak_flop_per_s["bf16"]
        whole = [gpu.idle_power_w, memory_w, flops_w, gpu.idle_power_w + memory_w + flops_w, gpu.tdp_w]
        assert list(map(int, told)) == [round(watts) for watts in whole]


def test_every_key_of_the_configuration_is_explained(pages):
    from omegaconf import OmegaConf

    def leaves(node, prefix=""):
        for key in node:
            value = node._get_node(key)
            if OmegaConf.is_dict(value) and not prefix.startswith("policy") and len(value):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"

    told = {key.name: key for key in pages.known_keys()}
    assert set(told) == set(leaves(OmegaConf.structured(Config)))
    assert [key.name for key in told.values() if not key.description.strip()] == []
    assert (told["cache_gib"].type, told["cache_gib"].default) == ("number or null", "null")
    assert (told["workload.batch_size"].type, told["workload.batch_size"].default) == ("integer", "1")
    assert (told["policy.cache"].type, told["policy.cache"].default) == ("policy/cache", "lru")


@pytest.fixture(scope="module")
def configuration(pages):
    return pages.configuration_page()


def test_every_choice_stands_in_the_table_of_its_group(configuration):
    tables = dict(re.findall(r"## Choices of `([\w/]+)`\n(.*?)(?=\n## |\Z)", configuration, flags=re.S))
    assert {group: sorted(re.findall(r"^\| `(\w+)`", table, flags=re.M)) for group, table in tables.items()} == {
        group: sorted(names) for group, names in choices().items()
    }
    for group, name in chosen().items():
        assert f"| `{name}` (default) |" in tables[group]


def test_rows_of_the_tables_have_as_many_cells_as_their_heads(configuration):
    for line in configuration.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 5), line


def test_the_interface_shows_a_name_in_one_place(pages):
    names = [name.removeprefix("api/").removesuffix(".md") for name in pages.api_pages()]
    assert {"traces", "hwmodels", "simulator.policies.cache.lru", "experiments.run"} <= set(names)
    assert "hwmodels.spec" not in names  # Platform is imported from hwmodels
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("plain", "marked_up"),
    [
        (["Sizes in `bytes`, see `Plan`s."], ["Sizes in ``bytes``, see ``Plan``\\ s.", ""]),
        (["Twice *n* or a|b, own_."], ["Twice \\*n\\* or a\\|b, own\\_.", ""]),
        (["A span `of", "two` lines."], ["A span ``of", "two`` lines.", ""]),
        (["Lead:", "  - kept", "as it is"], ["Lead:", "", "::", "", "      - kept", "    as it is", ""]),
        (["name   of `it`", "seed   of all"], ["", "::", "", "    name   of `it`", "    seed   of all", ""]),
        (["One.", "", ">>> f(*a)", "'`x`'"], ["One.", "", ">>> f(*a)", "'`x`'", ""]),
    ],
)
def test_a_plain_docstring_becomes_restructured_text(pages, plain, marked_up):
    assert pages.rst(plain) == marked_up


def test_links_are_seen_from_the_page_that_shows_them(pages):
    docs = ROOT / "docs"
    text = "[a](docs/tutorial.md#top) [b](LICENSE) [c](https://x.org/y.md) [d](#here)"
    assert pages.outward(text, ROOT, docs / "_generated") == (
        "[a](../tutorial.md#top) [b](path:../../LICENSE) [c](https://x.org/y.md) [d](#here)"
    )
    assert pages.outward("[e](../README.md) ![f](images/x.png)", docs, docs) == (
        "[e](path:../README.md) ![f](images/x.png)"
    )


def test_pages_that_are_no_longer_made_are_removed(pages, tmp_path):
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "gone.md").write_text("# Gone\n")
    written = pages.write_pages(tmp_path)
    assert sorted(tmp_path.rglob("*.md")) == sorted(written)
