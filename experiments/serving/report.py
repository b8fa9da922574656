"""The page of errors of predicted serving: by engine, model, GPU and precision, fitted rows and held-out ones apart."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from experiments.figures.style import PAGE_IN, figure
from experiments.serving.engines import Engine

if TYPE_CHECKING:
    import pandas as pd

PAGE, TABLE = "serving_rows.md", "serving_rows.csv"
FIGURES = ("serving_rows_parity.png", "serving_rows_residuals.png")
TEXT = Path(__file__).parent / "serving_rows.md"
MOE = ("DeepSeek", "MiniMax", "Qwen3-235B", "gpt-oss")
GROUP = ["mode", "model", "system", "backend", "precision"]
GOALS = {"tpot_mean": (0.15, 0.32), "tpot_median": (0.10, 0.22), "ttft_median": (0.25, 0.50)}
"""Error -> what was asked, and what is reported of the best known predictor."""
ENGINES = ("vllm", "sglang", "trtllm")
DPI = 150


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Errors by mode, model, GPU, engine, precision and side: rows, of which answered, mean and median of absolute
    errors, and the median of the signed ones (bias), all as shares.
    """
    import pandas as pd

    named = _named(rows)
    parts = [
        {**dict(zip([*GROUP, "side"], key, strict=True)), **_errors(part)}
        for key, part in named.groupby([*GROUP, "side"])
    ]
    return pd.DataFrame(parts)


def page(rows: pd.DataFrame) -> str:
    """The page, with its tables filled in."""
    named = _named(rows)
    named["kind"] = np.where(named["model"].str.startswith(MOE), "MoE", "dense")
    agg, disagg = named[named["mode"] == "agg"], named[named["mode"] == "disagg"]
    held, fitted = "held out", "fitted"
    moe = agg[agg["kind"] == "MoE"]
    totals: list[tuple[str, pd.DataFrame]] = [
        ("MoE, held out", moe[moe["side"] == held]),
        ("the same without rows that contradict themselves", moe[(moe["side"] == held) & ~_contradicts(moe)]),
        *((f"{engine}, MoE, held out", moe[(moe["side"] == held) & (moe["backend"] == engine)]) for engine in ENGINES),
        ("MoE, fitted", moe[moe["side"] == fitted]),
        ("dense, held out", agg[(agg["kind"] == "dense") & (agg["side"] == held)]),
        ("dense, fitted", agg[(agg["kind"] == "dense") & (agg["side"] == fitted)]),
    ]
    apart = [(side, disagg[disagg["side"] == side]) for side in (held, fitted)]
    cells = [(" / ".join(str(part) for part in key[1:]), part) for key, part in agg[agg["side"] == held].groupby(GROUP)]
    fields = {
        "goals": _goals(moe[moe["side"] == held]),
        "agg": _table("aggregated rows", totals),
        "disagg": _table("disaggregated rows", apart),
        "cells": _table("model / GPU / engine / precision, held out", cells),
    }
    text = TEXT.read_text(encoding="utf-8")
    for name, table in fields.items():
        text = text.replace(f"<!-- {name} -->", table)
    return text


def _contradicts(rows: pd.DataFrame) -> pd.Series:
    """Rows whose id names another number of requests under way (_c64_) than their columns give."""
    said = rows["id"].astype(str).str.extract(r"_c(\d+)_")[0].astype(float)
    return said.notna() & (said != rows["batch_size"] * rows["attention_dp_size"].fillna(1))


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    out = rows.copy()
    out["model"] = out["model_path"].str.split("/").str[-1]
    out["precision"] = out["precision"].fillna("as published")
    out["side"] = np.where(out["training"], "fitted", "held out")
    return out


def _errors(rows: pd.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = {"rows": len(rows), "answered": int((rows["reason"] == "").sum())}
    for name in ("tpot", "ttft"):
        error = rows[f"{name}_error"].dropna()
        found |= {
            f"{name}_mean": round(float(error.abs().mean()), 4),
            f"{name}_median": round(float(error.abs().median()), 4),
            f"{name}_bias": round(float(error.median()), 4),
        }
    return found


def _goals(rows: pd.DataFrame) -> str:
    """What was asked of held-out aggregated MoE rows, and whether it is reached."""
    found = _errors(rows)
    lines = ["| held-out aggregated MoE rows | goal | here | | rival |", "|---|---:|---:|---|---:|"]
    for key, (goal, rival) in GOALS.items():
        name = f"{key[:4].upper()}, {key[5:]}"
        verdict = "met" if found[key] <= goal else "**missed**"
        lines.append(f"| {name} | ≤ {100 * goal:.0f} % | {100 * found[key]:.1f} % | {verdict} | {100 * rival:.0f} % |")
    share = found["answered"] / found["rows"]
    lines.append(f"| answered | all | {100 * share:.0f} % | {'met' if share == 1 else '**missed**'} | half |")
    return "\n".join(lines)


def _table(title: str, parts: Sequence[tuple[str, pd.DataFrame]]) -> str:
    lines = [
        f"| {title} | rows | answered | TPOT mean | median | bias | TTFT mean | median | bias |",
        "|---|" + "---:|" * 8,
    ]
    for name, rows in parts:
        if not len(rows):
            continue
        e = _errors(rows)
        shares = [
            f"{100 * e[f'{what}_{kind}']:{'+' if kind == 'bias' else ''}.1f} %"
            for what in ("tpot", "ttft")
            for kind in ("mean", "median", "bias")
        ]
        lines.append("| " + " | ".join([str(name), f"{e['rows']:,}", f"{e['answered']:,}", *shares]) + " |")
    return "\n".join(lines)


def draw(rows: pd.DataFrame, folder: Path) -> None:
    """Held-out rows: predicted beside measured by engine; residuals by requests under way, prompt length and model."""
    named = _named(rows)
    held = named[(named["side"] == "held out") & (named["mode"] == "agg") & (named["reason"] == "")]
    with figure(PAGE_IN, 4.2) as drawing:
        grid = drawing.subplots(2, len(ENGINES))
        for line, what in zip(grid, ("tpot", "ttft"), strict=True):
            for axes, engine in zip(line, ENGINES, strict=True):
                mine = held[held["backend"] == engine]
                x, y = mine[f"silicon_{what}_ms"], mine[f"predicted_{what}_ms"]
                axes.scatter(x, y, s=4, alpha=0.4, linewidths=0)
                low, high = min(x.min(), y.min()) / 1.5, max(x.max(), y.max()) * 1.5
                axes.plot([low, high], [low, high], color="0.4", linewidth=0.8)
                axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
                axes.set_title(f"{engine}: {what.upper()}", fontsize=8)
                axes.set_xlabel("measured (ms)", fontsize=7)
        for line in grid:
            line[0].set_ylabel("predicted (ms)", fontsize=7)
        drawing.savefig(folder / FIGURES[0], dpi=DPI, metadata={"Software": None})
    with figure(PAGE_IN, 4.2) as drawing:
        grid = drawing.subplots(2, 3)
        for line, what in zip(grid, ("tpot", "ttft"), strict=True):
            ratio = 1 + held[f"{what}_error"]
            places = (held["batch_size"] * held["attention_dp_size"].fillna(1), held["isl"], held["model"])
            for axes, x, title in zip(line, places, ("requests under way", "prompt tokens", "model"), strict=True):
                kinds = sorted(set(x.dropna()))
                axes.boxplot([ratio[x == kind] for kind in kinds], showfliers=False, widths=0.6)
                axes.axhline(1.0, color="0.4", linewidth=0.8)
                names = [str(kind)[:13] if isinstance(kind, str) else f"{kind:g}" for kind in kinds]
                axes.set_xticks(range(1, len(kinds) + 1), names, rotation=90, fontsize=5)
                axes.set_title(f"{what.upper()} by {title}", fontsize=8)
                axes.set_yscale("log")
            line[0].set_ylabel("predicted / measured", fontsize=7)
        drawing.savefig(folder / FIGURES[1], dpi=DPI, metadata={"Software": None})


def write_engines(constants: dict[str, Engine], rows: pd.DataFrame, source: Path, path: Path) -> None:
    """The constants as YAML, with the digest of what they were fitted to and their errors on both sides."""
    named = _named(rows)
    named = named[named["mode"] == "agg"]
    content = {
        "source": "end-to-end points of serving from aiconfigurator (NVIDIA, Apache-2.0); rows whose configuration"
        " hashes to a multiple of three (experiments/serving/split.py)",
        "data_sha256": sha256(source.read_bytes()).hexdigest(),
        "engines": {
            name: {
                "values": {key: _short(value) for key, value in engine.values.items()},
                "versions": {
                    version: {key: _short(value) for key, value in factors.items()}
                    for version, factors in engine.versions.items()
                },
                "disagg": {key: _short(value) for key, value in engine.disagg.items()},
                "errors": {str(side): _errors(part) for side, part in named[named["backend"] == name].groupby("side")},
            }
            for name, engine in constants.items()
        },
    }
    text = yaml.safe_dump(content, sort_keys=False, width=120)
    path.write_text(f"# written by moesim validate serving-rows --fit\n{text}", encoding="utf-8")


def _short(value: float) -> float:
    """Four digits; what is below a picosecond is nothing."""
    return 0.0 if abs(value) < 1e-12 else float(f"{value:.4g}")
