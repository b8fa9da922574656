"""A page for each system: what it chooses in every role, and what was claimed for it. Nothing is run."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.catalogue import describe, load
from experiments.compose import choices, chosen, compose_config
from experiments.policy import policy_class
from experiments.run import plain
from experiments.schema import roles
from experiments.validation.published.claims import CLAIMS, ENGINES, Paper
from experiments.validation.published.engines import read_engines
from experiments.validation.published.needs import line, needed, sentence
from experiments.validation.published.reading import claim_sets, read_paper
from experiments.validation.published.text import anchor, number, span, table

INDEX = "index.md"


def write_pages(folder: Path, claims: Path = CLAIMS) -> list[Path]:
    """Write NAME.md of every preset of `conf/system`, and an index; pages of systems that are gone are removed."""
    texts = pages(claims)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        if old.name not in texts:
            old.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def pages(claims: Path = CLAIMS) -> dict[str, str]:
    """File name -> text of every page."""
    papers = read_all(claims)
    names = choices()["system"]
    texts = {f"{name}.md": system_page(name, [(c, p) for c, p in papers if p.system == name]) for name in names}
    return {INDEX: index_page(names, papers), **texts}


def read_all(claims: Path) -> list[tuple[str, Paper]]:
    """(name of the set, claims file) of all sets."""
    engines = {name: engine.overrides for name, engine in read_engines(claims / ENGINES).items()}
    sets = claim_sets(claims)
    return [(name, read_paper(path, engines)) for name in sets for path in sorted(sets[name].glob("*.yaml"))]


def index_page(names: Iterable[str], papers: list[tuple[str, Paper]]) -> str:
    """A table of all systems, by whether published claims are checked for them."""
    published, others = [], []
    for name in names:
        row = [f"[`{name}`]({name}.md)", describe("system", load("system", name))]
        own = [paper for _, paper in papers if paper.system == name]
        if own:
            count = sum(len(paper.claims) + len(paper.tables) for paper in own)
            published.append([*row, f"{own[0].title} ({own[0].reference})", str(count)])
        else:
            others.append(row)
    heads = ["system", "what it is", "publication", "claims and tables"]
    parts = [
        "# Systems",
        "Written by `moesim validate offloading --pages docs/systems`; do not edit. Each is a YAML of choices, one for"
        " each role ([policies](../policies.md)): `moesim run system=NAME`.",
        table(heads, published, numbers=[3]) if published else "",
        "## Without claims that are checked",
        table(heads[:2], others),
        "```{toctree}\n:hidden:\n:glob:\n\n*\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def system_page(name: str, papers: list[tuple[str, Paper]]) -> str:
    """What the preset chooses and sets, and the published figures it is held against."""
    node = load("system", name)
    default = _default_choices()
    made, policies = _chosen(name, node, default)
    parts = [f"# {name}", describe("system", node)]
    for _, paper in papers:
        where = ", ".join(text for text in (f"{paper.venue} {paper.year}".strip(), paper.reference) if text)
        parts.append(f"After *{paper.title}* ({where}).")
    need = needed(policies)
    parts.append(f"```sh\n{line(name, need)}\n```")
    if text := sentence(need):
        parts.append(text)
    parts += ["## What it chooses", table(["role", "choice", "parameters"], _roles(policies, made, default))]
    if settings := _settings(node):
        parts += ["It also sets:", table(["key", "value"], settings)]
    parts += ["Choices in bold differ from the defaults.", *_classes(policies, made, default)]
    for folder, paper in papers:
        parts += _claims(folder, paper)
    return "\n\n".join(parts) + "\n"


@functools.cache
def _default_choices() -> dict[str, str]:
    return chosen()


def _chosen(name: str, node: Any, default: dict[str, str]) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Group -> choice, and role -> class and parameters, of a preset.

    Most only name a choice for some roles; they are read as they stand, as Hydra takes a third of a second for each.
    """
    named = [entry for entry in node.get("defaults") or [] if entry != "_self_"]
    if not all(isinstance(entry, DictConfig) and str(next(iter(entry))).startswith("override /") for entry in named):
        config = plain(compose_config([f"system={name}"]))
        return chosen([f"system={name}"]), config["policy"]
    own = {str(key).removeprefix("override /"): str(value) for entry in named for key, value in entry.items()}
    made = {**default, **own}
    policies = {}
    for role in roles():
        merged = OmegaConf.merge(
            load(f"policy/{role}", made[f"policy/{role}"]), OmegaConf.select(node, f"policy.{role}") or {}
        )
        content = OmegaConf.to_container(merged)  # an interpolation stays as it is written
        assert isinstance(content, dict)
        policies[role] = {str(key): value for key, value in content.items()}
    return made, policies


def _roles(policies: dict[str, dict[str, Any]], made: dict[str, str], default: dict[str, str]) -> list[list[str]]:
    rows = []
    for role in roles():
        group = f"policy/{role}"
        choice = made[group]
        values = {key: value for key, value in policies[role].items() if key != "_target_"}
        text = f"**`{choice}`**" if choice != default[group] else f"`{choice}`"
        rows.append([f"`{role}`", text, ", ".join(f"`{key}={_plain(value)}`" for key, value in values.items())])
    return rows


def _settings(node: Any) -> list[list[str]]:
    """Keys that the preset sets beside its choices."""
    content = OmegaConf.to_container(node)
    assert isinstance(content, dict)
    rows: list[list[str]] = []

    def walk(part: Any, prefix: str) -> None:
        if isinstance(part, dict) and part:
            for key, value in part.items():
                walk(value, f"{prefix}.{key}".lstrip("."))
        else:
            rows.append([f"`{prefix}`", f"`{_plain(part)}`"])

    walk({key: value for key, value in content.items() if key not in ("defaults", "system", "policy")}, "")
    return [row for row in rows if row[0] != "``"]


def _classes(policies: dict[str, dict[str, Any]], made: dict[str, str], default: dict[str, str]) -> list[str]:
    """What the chosen classes say of themselves."""
    parts = []
    for role in roles():
        choice = made[f"policy/{role}"]
        if choice == "none" or (role == "host_cache" and choice == default["policy/host_cache"]):
            continue
        kind = policy_class(policies[role]["_target_"], role)
        text = textwrap.dedent(inspect.getdoc(kind) or "").strip()
        parts.append(f"### {role}: {choice}\n\n{_escaped(text)}\n\n`{kind.__module__}.{kind.__name__}`")
    return parts


def _escaped(text: str) -> str:
    """A docstring as Markdown: an indented part stays as it is."""
    lines = text.splitlines()
    if any(line.startswith("  ") for line in lines) or ">>>" in text:
        return f"```text\n{text}\n```"
    return text.replace("*", "\\*").replace("<", "\\<")


def _claims(folder: str, paper: Paper) -> list[str]:
    rows = [
        [claim.says, span(claim.published, claim.unit), span(claim.band, claim.unit), claim.weight, claim.confidence]
        for claim in paper.claims
    ]
    link = f"../validation/{folder}.md#{anchor(paper.title)}"
    parts = [f"## What was published: {folder}", f"Beside ours, with commands: [{folder}]({link})."]
    if paper.cannot_show:
        parts.append(f"A simulator cannot show: {paper.cannot_show}.")
    if rows:
        parts.append(table(["claim", "published", "band", "", "known from"], rows, numbers=[1, 2]))
    for part in paper.tables:
        values: dict[str, dict[str, float]] = {}
        for cell in part.cells:
            values.setdefault(cell.row, {})[cell.column] = cell.published
        cells = [
            [row, *(number(own[c], part.unit, with_unit=False) if c in own else "" for c in part.columns)]
            for row, own in values.items()
        ]
        parts += [f"{part.says} ({part.unit}; {part.source}):"]
        parts += [table(["", *part.columns], cells, numbers=range(1, 1 + len(part.columns)))]
    return parts


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
