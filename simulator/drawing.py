"""Results, systems and models as HTML, for notebooks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from html import escape
from typing import TYPE_CHECKING, Any

from hwmodels.markup import block, folded, table
from simulator.words import CAUSES, percent, size, summary_rows

if TYPE_CHECKING:
    from simulator.model import ModelSpec
    from simulator.result import Result
    from simulator.scenario import System

_BAR_PX = 160


def result_html(result: Result) -> str:
    """The summary with units, a bar for each cause of time, and where the numbers come from."""
    scenario, provenance = result.run.scenario, result.provenance
    rows = summary_rows({"summary": result.summary, "remarks": provenance["remarks"]})
    trace = provenance["trace"]
    origin = [
        f"moesim {provenance['moesim_version']}",
        f"trace {trace['digest'][:12]} ({', '.join(filter(None, (trace['dataset'], trace['licence'])))})",
        f"seed {scenario.settings.seed}",
        f"experts start in {scenario.platform.home}",
    ]
    return block(
        f"{scenario.system.name}: {scenario.model.name} on {scenario.platform.name}",
        table(row for row in rows if row[0] != "time went to"),
        shares_html(result.summary["attribution"]),
        note=" · ".join(origin),
    )


def shares_html(attribution: Mapping[str, float]) -> str:
    """A row for each cause with its share of the time and a bar, the largest first."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(CAUSES.get(cause, cause))}</th><td>{percent(share)}</td><td>'
        f'<div style="width:{_BAR_PX * share:.1f}px;height:0.8em;background:#0072b2"></div></td></tr>'
        for cause, share in sorted(attribution.items(), key=lambda item: (-item[1], item[0]))
    )
    columns = f'<th style="text-align:left">time went to</th><th>share</th><th style="width:{_BAR_PX}px"></th>'
    return f"<table><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table>"


def system_html(system: System) -> str:
    """The choice made in each role, with its parameters and what it does."""
    rows = []
    for role in fields(system):
        if role.name != "name":
            kind, parameters = _made_by(getattr(system, role.name))
            values = ", ".join(f"{key}={value}" for key, value in parameters.items())
            first = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
            rows.append([role.name, getattr(kind, "__qualname__", type(kind).__name__), values, first])
    return block(f"system {system.name}", table(rows, ["role", "choice", "parameters", "what it does"]))


def _made_by(factory: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What a factory calls, and the keywords it passes."""
    if isinstance(factory, functools.partial):
        return factory.func, dict(factory.keywords)
    return factory, {}


def model_html(model: ModelSpec) -> str:
    """Layers and experts, and parameters and bytes of each part."""
    parts = {part.replace("_", " "): counts for part, counts in model.parts().items() if counts[0]}
    rows = [[part, f"{params:,}", size(stored)] for part, (params, stored) in parts.items()]
    rows.append(["total", f"{model.total_params:,}", size(sum(stored for _, stored in parts.values()))])
    facts = [
        ["routed layers", f"{len(model.moe_layers)} of {model.layers}"],
        ["experts per layer", f"{model.experts}, {model.top_k} per token"],
        ["one expert", f"{size(model.expert_bytes)} at {model.bits('experts'):g} bits per weight"],
        ["active parameters", f"{model.active_params():,}"],
        ["KV cache of 4096 tokens", size(model.kv_bytes(4096))],
    ]
    return block(
        model.name,
        table(facts),
        table(rows, ["part", "parameters", "stored"]),
        folded("where the numbers are from", f"<p>{escape(model.source)}</p>"),
    )
