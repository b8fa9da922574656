"""The tree keeps its shape: imports go one way, the engine alone reads the clock, docs say what is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "traces": set(),
    "hwmodels": set(),
    "simulator": {"traces", "hwmodels"},
    "experiments": {"traces", "hwmodels", "simulator"},
}
WITH_TORCH = ("traces/capture", "experiments/tiny_moe")  # only with the extra `capture`
FILES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    others = imported(path) & set(MAY_IMPORT) - {room}
    assert others <= MAY_IMPORT[room]
    if room in ("traces", "hwmodels"):
        assert "simpy" not in imported(path)
    if not path.relative_to(ROOT).as_posix().startswith(WITH_TORCH):
        assert not {"torch", "transformers"} & imported(path)


def test_policies_and_cost_models_never_see_the_clock():
    for path in (*(ROOT / "simulator" / "policies").rglob("*.py"), *(ROOT / "hwmodels").rglob("*.py")):
        text = path.read_text()
        assert "simpy" not in text, path
        assert "env.now" not in text, path


def test_nothing_draws_from_a_global_generator_or_reads_the_wall_clock():
    banned = re.compile(r"np\.random\.(seed|rand|randn|randint|choice|shuffle)\b|\brandom\.random\(|time\.time\(")
    for path in FILES:
        assert not banned.search(path.read_text()), path


def test_every_policy_file_has_a_configuration():
    for group in sorted((ROOT / "experiments" / "conf" / "policy").iterdir()):
        used = "\n".join(config.read_text() for config in group.glob("*.yaml"))
        role = "cache" if group.name == "host_cache" else group.name
        modules = sorted((ROOT / "simulator" / "policies" / role).glob("*.py"))
        used += "\n".join(module.read_text() for module in modules)  # shared by several choices
        for module in modules:
            if module.stem not in ("__init__", "base") and group.name != "host_cache":
                assert re.search(rf"\.{module.stem}\b", used), f"{module.stem} has no YAML in {group}"


def test_links_in_the_docs_lead_somewhere():
    for page in (*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith(("http", "<")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
