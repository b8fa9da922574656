"""Pages made from the program itself: the configuration reference, the interface of each module, the README."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import itertools
import os
import pkgutil
import re
import textwrap
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

from experiments import catalogue, schema
from experiments.compose import choices, chosen
from simulator.layout_choice import LayoutChoice
from simulator.plan import Workload
from simulator.pools.spec import Pool, Pools
from simulator.scenario import Settings
from simulator.tenants.spec import Tenants
from traces.synthesis.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
DESCRIBED_BY = {  # whose docstrings tell of the keys below these
    "trace": Recipe,
    "workload": Workload,
    "settings": Settings,
    "layout": LayoutChoice,
    "tenants": Tenants,
    "pools": Pools,
    "pools.prefill": Pool,
    "pools.prefill.layout": LayoutChoice,
    "pools.decode": Pool,
    "pools.decode.layout": LayoutChoice,
    "pools.aggregated": Pool,
    "pools.aggregated.layout": LayoutChoice,
    "uncertainty": schema.UncertaintyFields,
}
# Documented modules; of a package without `__all__`, and of those in INSIDE, the modules within it too.
MODULES = {
    "Traces": ["traces", "traces.importers", "traces.transforms", "traces.workloads"],
    "Hardware": [
        "hwmodels",
        "hwmodels.datasheet",
        "hwmodels.predict",
        "hwmodels.kernel_times",
        "hwmodels.constants",
        "hwmodels.energy",
        "hwmodels.kernels",
        "hwmodels.fit",
        "hwmodels.calibrate",
        "hwmodels.rival",
        "hwmodels.operators",
        "hwmodels.efficiency",
        "hwmodels.units",
    ],
    "Simulator": [
        *(
            f"simulator.{name}"
            for name in ("scenario", "result", "bounds", "model", "plan", "served", "binding", "residency", "replay")
        ),
        "simulator.timeline",
        "simulator.energy.account",
        "simulator.energy.report",
        "simulator.policies",
    ],
    "Experiments": [
        *(f"experiments.{name}" for name in ("compose", "run", "catalogue", "results", "sweep", "figures", "fidelity")),
    ],
}
INSIDE = {"simulator.policies"}
_SKIPPED = {"simulator.policies.base"}  # what simulator.policies offers under its own name


def write_pages(folder: Path) -> list[Path]:
    """Write all pages below `folder`; a page that has not changed keeps its date."""
    pages = {"readme.md": readme_page(), "configuration.md": configuration_page(), **api_pages()}
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    wanted = [folder / name for name in pages]
    for path in sorted(folder.rglob("*.md")):
        if path not in wanted:
            path.unlink()
    return wanted


def readme_page() -> str:
    """README.md with its links as seen from docs/_generated."""
    return outward((ROOT / "README.md").read_text(encoding="utf-8"), ROOT, ROOT / "docs" / "_generated")


def outward(text: str, written_in: Path, shown_in: Path) -> str:
    """Markdown with its relative links as seen from `shown_in`; files that are no pages become downloads."""

    def moved(match: re.Match[str]) -> str:
        path, anchor = re.fullmatch(r"([^#]*)(#.*)?", match[1]).groups(default="")  # type: ignore[union-attr]
        target = (written_in / path).resolve()
        inside = target.is_relative_to(ROOT / "docs")
        return f"]({'' if inside else 'path:'}{Path(os.path.relpath(target, shown_in)).as_posix()}{anchor})"

    return re.sub(r"\]\((?!https?:|#|<)([^)\s]+)\)", moved, text)


# ---- the configuration


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of the configuration: its dotted name, type and default as one writes them, and what it means."""

    name: str
    type: str
    default: str
    description: str


def known_keys() -> list[Key]:
    """Every key with a value of its own, in the order of experiments.schema.Config."""
    return list(_keys(schema.Config, "", schema.Config))


def _keys(kind: type, prefix: str, described_by: type) -> Iterator[Key]:
    hints = get_type_hints(kind)
    texts = descriptions(described_by)
    for field in dataclasses.fields(kind):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        if prefix == "policy.":
            choice = _default_choices()[f"policy/{field.name}"]
            yield Key(name, f"policy/{field.name}", choice, _role(field.name))
        elif dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _keys(hint, f"{name}.", DESCRIBED_BY.get(name, hint))
        elif field.name in choices():
            yield Key(name, field.name, _default_choices()[field.name], _MEANINGS[name])
        else:
            description = _MEANINGS.get(name) or texts.get(field.name, "").replace("(None: ", "(null: ")
            yield Key(name, _type(hint), _default(field), description)


_MEANINGS = {
    "model": "the architecture; keys below it are the fields of `simulator.model.ModelSpec`",
    "platform": "the machine; keys below it are those of its file, see the guide on platforms",
    "system.name": "what the system calls itself (the name of its file)",
    "system.description": "what `moesim list systems` says of it",
    "experiment.name": "what the experiment calls itself (the name of its file)",
    "experiment.description": "what `moesim list experiments` says of it",
    "trace.name": "a name to show",
    "trace.path": "a shipped file's name, or a path",
    "trace.steps": "transforms that make the trace to be used of this one, such as `top_k 1` (null: none)",
}


def descriptions(kind: type) -> dict[str, str]:
    """Field -> what the docstring of its dataclass says, in columns or as `name: text; name: text.`"""
    doc = inspect.getdoc(kind) or ""
    found: dict[str, str] = {}
    for line in doc.splitlines():
        if match := re.match(r"(\w[\w.<>]*(?:, [\w.<>]+)*)\s{2,}(\S.*)", line):
            found |= {name.strip(): match[2] for name in match[1].split(",")}
    names = "|".join(field.name for field in dataclasses.fields(kind))
    prose = " ".join(doc.split())
    parts = re.split(rf"(?:(?<=\s)|^)({names}): ", prose)
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        found.setdefault(name, text.rstrip().rstrip(";."))
    return found


def _type(hint: Any) -> str:
    words = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}
    if isinstance(hint, types.UnionType):
        return " or ".join(_type(part) for part in hint.__args__)
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def _default(field: dataclasses.Field[Any]) -> str:
    from omegaconf import OmegaConf

    value = field.default
    if value is dataclasses.MISSING or value == "???":
        return ""
    return OmegaConf.to_yaml(OmegaConf.create({"v": value})).removeprefix("v:").strip()


@functools.cache
def _default_choices() -> dict[str, str]:
    return chosen()


def _role(role: str) -> str:
    """What a role decides, as its base module says."""
    text = (importlib.import_module(schema.roles()[role].__module__).__doc__ or "").partition(": ")[2].strip()
    return f"{text} In host memory, where the experts' home is an SSD." if role == "host_cache" else text


def _first_sentence(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def configuration_page() -> str:
    """Every key, and every group with its choices."""
    lines = [
        "# Configuration",
        "",
        "Keys are set on the command line as `key=value`, in an experiment's YAML, or in",
        "`compose_config([...])`. A group is set to a choice (`platform=rtx_4090`, `policy/cache=lfu`) or to",
        "a file of one's own (`model=my_model.yaml`); keys within it are dotted (`policy.cache.history=true`).",
        "Unknown keys and values of another type are refused.",
        "",
        "## Keys",
        "",
        *_table(
            ["key", "type", "default", "meaning"],
            ([_code(key.name), key.type, _code(key.default), key.description] for key in known_keys()),
        ),
    ]
    listed = {group: catalogue.listed(kind) for kind, group in catalogue.KIND_GROUPS.items()}
    for row in catalogue.listed("policies"):
        listed.setdefault(f"policy/{row['role']}", []).append(row)
    order = ["system", "model", "platform", "trace", "experiment", "uncertainty"]
    order += [f"policy/{role}" for role in schema.roles()]
    default = _default_choices()
    for group in order:
        lines += ["", f"## Choices of `{group}`", ""]
        if group.startswith("policy/"):
            lines += [_role(group.removeprefix("policy/")), ""]
        rows = ([_mark(row["name"], default.get(group)), row["description"]] for row in listed[group])
        lines += _table(["choice", "what it is"], rows)
    return "\n".join(lines) + "\n"


def _mark(name: str, default: str | None) -> str:
    return f"{_code(name)} (default)" if name == default else _code(name)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in lines]


def _escaped(cell: str) -> str:
    """Text for a cell of a Markdown table: what stands between backticks is left alone, but for bars."""
    pieces = re.split(r"(`[^`]*`)", cell.replace("|", "\\|"))
    return "".join(piece if piece.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", piece) for piece in pieces)


# ---- the modules


def modules(name: str) -> list[str]:
    """A module and, where it is a package that does not say what it offers, the public modules within."""
    module = importlib.import_module(name)
    names = [name]
    if hasattr(module, "__path__") and (name in INSIDE or not hasattr(module, "__all__")):
        for info in pkgutil.iter_modules(module.__path__):
            inner = f"{name}.{info.name}"
            if not info.name.startswith("_") and inner not in _SKIPPED:
                names += modules(inner)
    return names


def api_pages() -> dict[str, str]:
    """File -> text of a page for each documented module, and of their index."""
    pages = {}
    index = ["# Python interface", "", "What one imports, package by package."]
    for title, roots in MODULES.items():
        names = [name for root in roots for name in modules(root)]
        rows = [[f"[`{name}`]({name}.md)", _first_sentence(importlib.import_module(name))] for name in names]
        lines = _table(["module", "what it is for"], rows)
        index += ["", f"## {title}", "", *(line.replace(r"\[", "[").replace(r"\]", "]") for line in lines)]
        index += ["", "```{toctree}", ":hidden:", "", *names, "```"]
        for name in names:
            pages[f"api/{name}.md"] = _module_page(name)
    return {"api/index.md": "\n".join(index) + "\n", **pages}


def _module_page(name: str) -> str:
    module = importlib.import_module(name)
    options = [":members:", ":undoc-members:", ":show-inheritance:", ":member-order: bysource"]
    if hasattr(module, "__all__"):
        options[0] = f":members: {', '.join(module.__all__)}"
    body = [f".. automodule:: {name}", *(f"   {option}" for option in options)]
    return "\n".join([f"# `{name}`", "", "```{eval-rst}", *body, "```", ""])


def rst(doc: list[str]) -> list[str]:
    """A docstring of plain text with `backticks` as reStructuredText.

    Paragraphs stay paragraphs and doctests doctests; columns and whatever else is indented keep their layout.
    """
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", textwrap.dedent("\n".join(doc)).strip("\n")):
        rows = paragraph.splitlines()
        if ">>>" in paragraph:
            lines += rows
        else:
            plain = list(itertools.takewhile(lambda row: not _laid_out(row), rows))
            lines += _inline("\n".join(plain)).splitlines()
            if kept := rows[len(plain) :]:
                lines += ["", "::", "", *(f"    {row}" for row in kept)]
        lines.append("")
    return lines


def _laid_out(row: str) -> bool:
    """Whether a line is indented, an item of a list, or in columns."""
    return row.startswith((" ", "- ")) or bool(re.search(r"\S {2,}\S", row))


def _inline(text: str) -> str:
    pieces = re.split(r"(`{1,2}[^`]+`{1,2})", text)
    for place, piece in enumerate(pieces):
        if place % 2:
            glued = pieces[place + 1][:1].isalnum()
            pieces[place] = f"``{piece.strip('`')}``" + ("\\ " if glued else "")
        else:
            pieces[place] = re.sub(r"([*|\\`]|_(?!\w))", r"\\\1", piece)
    return "".join(pieces)
