"""The page docs/fidelity.md: the text of page.md with tables and figures of the fitted kernel models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from experiments.fidelity.figures import FAMILIES, NAMES, label, operators, parity, rooflines, tokens_per_expert
from experiments.fidelity.points import points

TEMPLATE = Path(__file__).parent / "page.md"
FIGURES = Path("images") / "fidelity"  # below the page's folder
GOALS = {"moe": 0.10, "gemm": 0.12, "attention": 0.12, "mla": 0.12}  # by the beginning of a kernel's name
COMMUNICATION_GOAL = 0.15
DEVICE_GOAL = 0.20
CAPTIONS = {
    "errors": "Mean errors by operator",
    "experts": "Measured and predicted times of expert layers on unseen shapes; dark: many rows; dotted: 1.2 times",
    "gemm": "The same for dense products",
    "attention": "The same for attention",
    "communication": "The same for collectives and the exchange of tokens with their experts",
    "tokens_per_expert": "Error of expert layers on unseen shapes by mean tokens per expert",
    "roofline": (
        "Measured kernels under the datasheet's roofline: up to 200 rows of each operator. Bytes are counted as if "
        "there were no cache, so that kernels whose data stay in L2 lie above the slope"
    ),
}


def write_page(contents: Sequence[Mapping[str, Any]], path: Path) -> list[Path]:
    """Write the page and its figures, from fitted files as `hwmodels.calibrate.read` gives them; the files written."""
    summary = summarised(contents)
    rows = points(contents)
    folder = path.parent / FIGURES
    made = [operators(summary, folder / "errors.png")]
    for family, kernels in FAMILIES.items():
        names = [row["kernel"] for row in summary if row["kernel"] in kernels]
        if names:
            made.append(parity(rows[rows["kernel"].isin(names)], names, folder / f"{family}.png"))
            if family == "experts":
                made.append(tokens_per_expert(rows, folder / "tokens_per_expert.png"))
    if (rows["flops"] > 0).any():
        made.append(rooflines(rows, folder / "roofline.png"))
    path.write_text(page(contents, [figure.stem for figure in made]), encoding="utf-8")
    return [path, *made]


def page(contents: Sequence[Mapping[str, Any]], figures: Sequence[str] = ()) -> str:
    """The page as Markdown, from fitted files alone; figures: names of those to show."""
    devices = sorted({row["device"] for content in contents for row in content["errors"]})
    count = sum(row["shape"]["rows"] for content in contents for row in content["errors"])
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        rows=f"{count:,}",
        devices=", ".join(label(device) for device in devices),
        summary=_summary_table(summarised(contents)),
        figures="\n\n".join(map(_figure, figures)),
        table="\n\n".join(_table(content) for content in contents),
    )


def _figure(name: str) -> str:
    return f"![{CAPTIONS[name]}]({FIGURES.as_posix()}/{name}.png)\n*{CAPTIONS[name]}.*"


def summarised(contents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By kernel model, in the order of figures: means over all rows, goals, and how many cells meet or lose what.

    Keys: kernel, rows, mean, goal, rival, left_out (NaN if no device could be left out), device_goal, cells, within
    (cells whose mean meets the goal), lost (cells where the plain roofline has the smaller mean).
    """
    found = []
    for content in sorted(contents, key=lambda content: list(NAMES).index(content["kernel"])):
        name, rows = content["kernel"], content["errors"]
        goal = next((goal for start, goal in GOALS.items() if name.startswith(start)), COMMUNICATION_GOAL)
        found.append(
            {
                "kernel": name,
                "rows": sum(row["shape"]["rows"] for row in rows),
                "mean": _mean(rows, "shape"),
                "goal": goal,
                "rival": _mean(rows, "rival"),
                "left_out": _mean(rows, "left_out"),
                "device_goal": DEVICE_GOAL,
                "cells": len(rows),
                "within": sum(row["shape"]["mean"] <= goal for row in rows),
                "lost": sum(row["rival"]["mean"] < row["shape"]["mean"] for row in rows),
            }
        )
    return found


def _mean(rows: Sequence[Mapping[str, Any]], kind: str) -> float:
    """Over all measured rows."""
    counts = [row[kind]["rows"] for row in rows if kind in row]
    means = [row[kind]["mean"] for row in rows if kind in row]
    return sum(c * m for c, m in zip(counts, means, strict=True)) / sum(counts) if counts else float("nan")


def _summary_table(summary: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| operator | rows | unseen shapes, mean | goal | plain roofline, mean | unseen device, mean | goal | "
        "cells within the goal | cells where the plain roofline is better |",
        "|---|---:|---:|---|---:|---:|---|---:|---:|",
    ]
    for row in summary:
        cells = [
            f"`{row['kernel']}`",
            f"{row['rows']:,}",
            _percent(row["mean"]),
            _goal(row["mean"], row["goal"]),
            _percent(row["rival"]),
            _percent(row["left_out"]),
            _goal(row["left_out"], row["device_goal"]),
            f"{row['within']} of {row['cells']}",
            str(row["lost"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _table(content: Mapping[str, Any]) -> str:
    lines = [
        f"### `{content['kernel']}`\n",
        "| device | engine, kernel, dtype | rows | median | mean | bias | 95 % | unseen device, mean | "
        "plain roofline, median | mean |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in content["errors"]:
        ours, rival = row["shape"], row["rival"]
        cells = [
            row["device"],
            row["group"],
            f"{ours['rows']:,}",
            _percent(ours["median"]),
            _percent(ours["mean"]),
            f"{100 * ours['bias']:+.1f} %",
            _percent(ours["p95"]),
            _percent(row["left_out"]["mean"]) if "left_out" in row else "",
            _percent(rival["median"]),
            _percent(rival["mean"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share == share else ""


def _goal(reached: float, goal: float) -> str:
    if reached != reached:
        return ""
    return f"≤ {100 * goal:.0f} %: {'met' if reached <= goal else '**missed**'}"
