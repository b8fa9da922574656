"""Figures of the page on fidelity, as PNG: predictions are those by fits that never saw the shape of the row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.figures.style import BOUND, PAGE_IN, REFERENCE, figure, fill, logarithmic, stroke
from hwmodels.datasheet import datasheet

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NAMES = {
    "moe": "experts",
    "gemm": "GEMM",
    "attention_context": "attention, prefill",
    "attention_generation": "attention, decode",
    "mla_context": "MLA, prefill",
    "mla_generation": "MLA, decode",
    "collectives": "NCCL",
    "custom_allreduce": "own all-reduce",
    "expert_all_to_all": "expert all-to-all",
    "deepep_low_latency_dispatch": "DeepEP dispatch",
    "deepep_low_latency_combine": "DeepEP combine",
}
FAMILIES = {
    "experts": ("moe",),
    "gemm": ("gemm",),
    "attention": ("attention_context", "attention_generation", "mla_context", "mla_generation"),
    "communication": tuple(NAMES)[6:],
}
DPI = 180
COLOURS_OF_A_FILE = 64
BAND = 1.2  # factor of the dotted lines beside the diagonal
ROOFLINE_ROWS = 200  # shown of each operator and device, drawn with a seed


def label(device: str) -> str:
    """A preset's name as one writes it: h100_sxm -> H100 SXM."""
    return device.replace("_", " ").upper()


def parity(points: pd.DataFrame, names: Sequence[str], path: Path) -> Path:
    """Measured against predicted: a row of panels for each kernel model, a column for each device."""
    devices = sorted(points["device"].unique())
    with figure(PAGE_IN, 0.45 + 1.6 * len(names)) as drawing:
        grid = drawing.subplots(len(names), len(devices), squeeze=False)
        for panels, name in zip(grid, names, strict=True):
            mine = points[points["kernel"] == name]
            both = mine[["measured_s", "predicted_s"]].to_numpy() * 1e6
            low, high = both.min() / 1.5, both.max() * 1.5
            for axes, device in zip(panels, devices, strict=True):
                rows = mine[mine["device"] == device]
                if not len(rows):
                    axes.axis("off")
                    continue
                x, y = rows["measured_s"] * 1e6, rows["predicted_s"] * 1e6
                logarithmic(axes, "x", low, high)
                logarithmic(axes, "y", low, high)
                extent = np.log10([low, high, low, high])
                look: dict[str, Any] = {
                    "gridsize": 45,
                    "bins": "log",
                    "mincnt": 1,
                    "cmap": "viridis_r",
                    "linewidths": 0.1,
                }
                axes.hexbin(x, y, xscale="log", yscale="log", extent=extent, zorder=2, **look)
                axes.plot([low, high], [low, high], **{**REFERENCE, "linewidth": 0.6, "linestyle": "-"}, zorder=3)
                for factor in (1 / BAND, BAND):
                    axes.plot([low, high], [low * factor, high * factor], **{**BOUND, "linewidth": 0.7}, zorder=3)
                error = np.abs(y / x - 1)
                text = f"{len(rows):,} rows\nmedian {100 * error.median():.1f} %\nmean {100 * error.mean():.1f} %"
                axes.text(0.04, 0.96, text, transform=axes.transAxes, fontsize=6, va="top")
                axes.set_title(f"{NAMES[name]}, {label(device)}", fontsize=7)
                axes.tick_params(labelsize=6)
        drawing.supxlabel("measured (µs)", fontsize=8)
        drawing.supylabel("predicted (µs)", fontsize=8)
        return _save(drawing, path)


def tokens_per_expert(points: pd.DataFrame, path: Path) -> Path:
    """Error and bias of the expert kernels by mean tokens per expert, in bins of a factor of two."""
    rows = points[points["kernel"] == "moe"]
    ratio = rows["predicted_s"] / rows["measured_s"]
    octave = np.floor(np.log2(rows["tokens_per_expert"]))
    with figure(PAGE_IN, 2.5) as drawing:
        left, right = drawing.subplots(1, 2)
        for number, device in enumerate(sorted(rows["device"].unique())):
            mine = rows["device"] == device
            by = ratio[mine].groupby(octave[mine])
            enough = by.size() >= 10
            x = 2.0 ** (by.size().index[enough] + 0.5)
            look = {**stroke(number), "markersize": 3}
            left.plot(x, 100 * by.apply(lambda r: (r - 1).abs().mean())[enough], label=label(device), **look)
            right.plot(x, 100 * (by.median()[enough] - 1), **look)
        for axes, text in ((left, "mean absolute error (%)"), (right, "median error (%)")):
            axes.set_xscale("log", base=4)
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:.2g}" if x < 1 else f"{x:g}")
            axes.set_xlabel("tokens per expert, mean over the model's experts")
            axes.set_ylabel(text)
        left.set_ylim(bottom=0)
        right.axhline(0, **{**REFERENCE, "linewidth": 0.6})
        drawing.legend(loc="outside upper center", ncols=4)
        return _save(drawing, path)


def rooflines(points: pd.DataFrame, path: Path) -> Path:
    """FLOP/s reached against arithmetic intensity, a panel for each device with a roof for each of its peaks."""
    rows = points[points["flops"] > 0]
    names = [name for name in NAMES if name in set(rows["kernel"])]
    devices = sorted(rows["device"].unique())
    random = np.random.default_rng(0)
    with figure(PAGE_IN, 0.4 + 2.35 * -(-len(devices) // 2)) as drawing:
        grid = drawing.subplots(-(-len(devices) // 2), 2, squeeze=False, sharex=True, sharey=True)
        low, high = 0.2, 2e4
        for axes in grid.flat[len(devices) :]:
            axes.axis("off")
        for axes, device in zip(grid.flat, devices, strict=False):
            sheet = datasheet(device)
            bandwidth = sheet.memory_read_bytes_per_s
            axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(0.01, 3e4))
            peaks = []
            for dtype in ("bf16", "fp8", "fp4"):
                if dtype not in sheet.peak_flop_per_s:
                    continue
                peak = sheet.peak(dtype)
                roof = np.array([low * bandwidth, peak, peak]) / 1e12
                axes.plot([low, peak / bandwidth, high], roof, color="black", linewidth=0.8)
                peaks.append(f"{dtype} {peak / 1e12:,.0f}")
            axes.set_title(f"{label(device)} ({', '.join(peaks)} TFLOP/s)")
            for number, name in enumerate(names):
                mine = rows[(rows["device"] == device) & (rows["kernel"] == name)]
                if len(mine) > ROOFLINE_ROWS:
                    mine = mine.iloc[np.sort(random.choice(len(mine), ROOFLINE_ROWS, replace=False))]
                look: dict[str, Any] = {**stroke(number), "linestyle": "none", "markersize": 2.2, "alpha": 0.7}
                x, y = mine["flops"] / mine["size_bytes"], mine["flops"] / mine["measured_s"] / 1e12
                axes.plot(x, y, markeredgewidth=0, rasterized=True, label=NAMES[name], **look)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        drawing.supxlabel("arithmetic intensity (FLOP/byte)", fontsize=8)
        drawing.supylabel("performance (TFLOP/s)", fontsize=8)
        drawing.legend(handles, labels, loc="outside upper center", ncols=6, markerscale=2)
        return _save(drawing, path)


def operators(summary: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Mean errors by operator: on unseen shapes beside the plain roofline, and on an unseen device; lines are goals."""
    with figure(PAGE_IN, 2.6) as drawing:
        axes = drawing.subplots()
        kinds = ("unseen shapes", "plain roofline, unseen shapes", "unseen device")
        for number, (kind, key) in enumerate(zip(kinds, ("mean", "rival", "left_out"), strict=True)):
            x = np.arange(len(summary)) + 0.27 * (number - 1)
            height = [100 * row[key] for row in summary]
            axes.bar(x, height, 0.25, label=kind, **fill(number))
        for place, row in enumerate(summary):
            goals = [(-0.41, -0.14, row["goal"]), (0.14, 0.41, row["device_goal"])]
            for start, end, goal in goals:
                axes.plot([place + start, place + end], [100 * goal] * 2, color="black", linewidth=1.4, label="goal")
        axes.set_xticks(range(len(summary)), [NAMES[row["kernel"]].replace(" ", "\n") for row in summary])
        axes.tick_params(axis="x", labelsize=6)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("mean absolute error (%)")
        handles, labels = axes.get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))  # one goal
        drawing.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=4)
        return _save(drawing, path)


def _save(drawing: Figure, path: Path) -> Path:
    """Write a PNG of few colours, which is a third of the size."""
    from PIL import Image

    whole = BytesIO()
    drawing.savefig(whole, format="png", dpi=DPI, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    few = Image.open(whole).convert("RGB").quantize(COLOURS_OF_A_FILE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    return path
