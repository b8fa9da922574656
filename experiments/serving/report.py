"""The page of errors of predicted serving: by engine, model, GPU and precision, fitted rows and held-out ones apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from experiments.compose import read_yaml
from experiments.serving.engines import FILE, Engine
from experiments.serving.rows import BACKENDS

if TYPE_CHECKING:
    import pandas as pd

PAGE, TABLE = "serving_rows.md", "serving_rows.csv"
TEXT = Path(__file__).parent / "serving_rows.md"
MOE = ("DeepSeek", "MiniMax", "Qwen3-235B", "gpt-oss")
GROUP = ["mode", "model", "system", "backend", "precision"]
GOALS = {"tpot_mean": (0.15, 0.32), "tpot_median": (0.10, 0.22), "ttft_median": (0.25, 0.50)}
"""Error -> what was asked, and what is reported of the best known predictor."""


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Errors by mode, model, GPU, engine, precision and side: rows, of which answered, mean and median of absolute
    errors, and the median of the signed ones (bias), all as shares.
    """
    import pandas as pd

    named = named_rows(rows)
    parts = [
        {**dict(zip([*GROUP, "side"], key, strict=True)), **errors_of(part)}
        for key, part in named.groupby([*GROUP, "side"])
    ]
    return pd.DataFrame(parts)


def page(rows: pd.DataFrame) -> str:
    """The page, with its tables filled in."""
    named = named_rows(rows)
    named["kind"] = np.where(named["model"].str.startswith(MOE), "MoE", "dense")
    agg, disagg = named[named["mode"] == "agg"], named[named["mode"] == "disagg"]
    held, fitted = "held out", "fitted"
    moe = agg[agg["kind"] == "MoE"]
    totals: list[tuple[str, pd.DataFrame]] = [
        ("MoE, held out", moe[moe["side"] == held]),
        ("the same without rows that contradict themselves", moe[(moe["side"] == held) & ~_contradicts(moe)]),
        *((f"{engine}, MoE, held out", moe[(moe["side"] == held) & (moe["backend"] == engine)]) for engine in BACKENDS),
        ("MoE, fitted", moe[moe["side"] == fitted]),
        ("dense, held out", agg[(agg["kind"] == "dense") & (agg["side"] == held)]),
        ("dense, fitted", agg[(agg["kind"] == "dense") & (agg["side"] == fitted)]),
    ]
    apart = [(side, disagg[disagg["side"] == side]) for side in (held, fitted)]
    cells = [(" / ".join(str(part) for part in key[1:]), part) for key, part in agg[agg["side"] == held].groupby(GROUP)]
    fields = {
        "goals": _goals(moe[moe["side"] == held]),
        "agg": table_of_errors("aggregated rows", totals),
        "disagg": table_of_errors("disaggregated rows", apart),
        "left out": _lines("constants fitted without", [(_out_name(e), e) for e in _left_out_errors()]),
        "cells": table_of_errors("model / GPU / engine / precision, held out", cells),
    }
    text = TEXT.read_text(encoding="utf-8")
    for name, table in fields.items():
        text = text.replace(f"<!-- {name} -->", table)
    return text


def overview(rows: pd.DataFrame) -> str:
    """A few lines to print: errors on held-out aggregated MoE rows, and on models and GPUs left out of the fit."""
    named = named_rows(rows)
    held = named[(named["mode"] == "agg") & named["model"].str.startswith(MOE) & (named["side"] == "held out")]
    parts = [
        ("MoE, held out", errors_of(held)),
        *((_out_name(e), e) for e in _left_out_errors() if "any" in e["left_out"]),
    ]
    return "\n".join(
        f"{name + ':':28}{e['rows']:5,} rows, TPOT {100 * e['tpot_mean']:.1f} % mean and {100 * e['tpot_median']:.1f} %"
        f" median, TTFT {100 * e['ttft_median']:.1f} % median"
        for name, e in parts
    )


def _left_out_errors() -> list[dict[str, Any]]:
    return list(read_yaml(FILE).get("left_out", []))


def _out_name(errors: Mapping[str, Any]) -> str:
    return f"left out {errors['kind']}: {errors['left_out']}"


def _contradicts(rows: pd.DataFrame) -> pd.Series:
    """Rows whose id names another number of requests under way (_c64_) than their columns give."""
    said = rows["id"].astype(str).str.extract(r"_c(\d+)_")[0].astype(float)
    return said.notna() & (said != rows["batch_size"] * rows["attention_dp_size"].fillna(1))


def named_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the columns `model`, `precision` and `side` (fitted, held out) as pages and figures name them."""
    out = rows.copy()
    out["model"] = out["model_path"].str.split("/").str[-1]
    out["precision"] = out["precision"].fillna("as published")
    out["side"] = np.where(out["training"], "fitted", "held out")
    return out


def errors_of(rows: pd.DataFrame) -> dict[str, Any]:
    """Rows, of which answered, mean and median of absolute errors and the median of signed ones, as shares."""
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
    found = errors_of(rows)
    lines = ["| held-out aggregated MoE rows | goal | here | | rival |", "|---|---:|---:|---|---:|"]
    for key, (goal, rival) in GOALS.items():
        name = f"{key[:4].upper()}, {key[5:]}"
        verdict = "met" if found[key] <= goal else "**missed**"
        lines.append(f"| {name} | ≤ {100 * goal:.0f} % | {100 * found[key]:.1f} % | {verdict} | {100 * rival:.0f} % |")
    share = found["answered"] / found["rows"]
    lines.append(f"| answered | all | {100 * share:.0f} % | {'met' if share == 1 else '**missed**'} | half |")
    return "\n".join(lines)


def table_of_errors(title: str, parts: Sequence[tuple[str, pd.DataFrame]]) -> str:
    """The errors of each part of a table, as Markdown."""
    return _lines(title, [(name, errors_of(rows)) for name, rows in parts if len(rows)])


def _lines(title: str, parts: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    lines = [
        f"| {title} | rows | answered | TPOT mean | median | bias | TTFT mean | median | bias |",
        "|---|" + "---:|" * 8,
    ]
    for name, e in parts:
        shares = [
            f"{100 * e[f'{what}_{kind}']:{'+' if kind == 'bias' else ''}.1f} %"
            for what in ("tpot", "ttft")
            for kind in ("mean", "median", "bias")
        ]
        lines.append("| " + " | ".join([str(name), f"{e['rows']:,}", f"{e['answered']:,}", *shares]) + " |")
    return "\n".join(lines)


def write_engines(
    constants: dict[str, Engine], rows: pd.DataFrame, others: pd.DataFrame, source: Path, path: Path
) -> None:
    """The constants as YAML, with the digest of what they were fitted to, their errors on both sides, and those on
    models and GPUs left out of the fit (`others`, by experiments.serving.left_out).
    """
    named = named_rows(rows)
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
                "errors": {
                    str(side): errors_of(part) for side, part in named[named["backend"] == name].groupby("side")
                },
            }
            for name, engine in constants.items()
        },
        "left_out": _left_out(others),
    }
    text = yaml.safe_dump(content, sort_keys=False, width=120)
    path.write_text(f"# written by moesim validate serving-rows --fit\n{text}", encoding="utf-8")


def _left_out(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Errors by what was left out, those of all first."""
    out = named_rows(rows)
    moe = out["model"].str.startswith(MOE)
    parts = []
    for kind in out["kind"].unique():
        mine = out["kind"] == kind
        parts += [(kind, "any, MoE", out[mine & moe]), (kind, "any, dense", out[mine & ~moe])]
        parts += [(kind, name, part) for name, part in out[mine].groupby("left_out")]
    return [{"kind": kind, "left_out": name, **errors_of(part)} for kind, name, part in parts]


def _short(value: float) -> float:
    """Four digits; what is below a picosecond is nothing."""
    return 0.0 if abs(value) < 1e-12 else float(f"{value:.4g}")
