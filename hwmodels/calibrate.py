"""Fitting every kernel model to the shipped measurements, with its error on shapes and devices that it never saw."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hwmodels.datasheet import datasheet
from hwmodels.fit import Sample, errors, fit_group, held_out, left_out, samples
from hwmodels.kernels import Kernel, kernels
from hwmodels.predict import FITTED

MEASUREMENTS = Path(__file__).parent / "measurements"
DIGITS = 5  # of fitted parameters


def data_digest(table: str) -> str:
    """SHA-256 of a measured table's file."""
    return hashlib.sha256((MEASUREMENTS / f"{table}.parquet").read_bytes()).hexdigest()


def load(kernel: Kernel) -> dict[str, list[Sample]]:
    """The measured rows of a kernel model: group -> a sample for each device."""
    import pandas as pd

    table = pd.read_parquet(MEASUREMENTS / f"{kernel.table}.parquet")
    sheets = {name: datasheet(name) for name in sorted(set(table["system"]))}
    (target,) = kernel.targets
    return samples(table, kernel, target, sheets)


def calibrate(names: Sequence[str], workers: int = 1, say: Callable[[str], None] = lambda text: None) -> list[Any]:
    """What is shipped of kernel models: parameters by group and device, the data's digest, the error table.

    errors: a row for each group and device with its errors on unseen shapes (`shape`), and predicted from the other
    devices (`left_out`, where there are others). workers: processes, a group at a time.
    """
    todo = [(name, group) for name in names for group in load(kernels()[name])]
    found: dict[tuple[str, str], tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    with ProcessPoolExecutor(workers) as pool:
        for key, made in zip(todo, pool.map(calibrate_group, *zip(*todo, strict=True)), strict=True):
            say(f"{key[0]}: {key[1]}")
            found[key] = made
    return [
        {
            "kernel": name,
            "data_sha256": data_digest(kernels()[name].table),
            "groups": {group: found[name, group][0] for kernel, group in todo if kernel == name},
            "errors": [row for kernel, group in todo if kernel == name for row in found[name, group][1]],
        }
        for name in names
    ]


def calibrate_group(name: str, group: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(parameters, rows of the error table) of one group of a kernel model."""
    kernel = kernels()[name]
    data = load(kernel)[group]
    prior, own = fit_group(kernel, data)
    values = {"prior": _short(prior), "devices": {device: _short(found) for device, found in own.items()}}
    unseen_shapes, unseen_device = held_out(kernel, data), left_out(kernel, data)
    table: list[dict[str, Any]] = []
    for sample in data:
        device = sample.sheet.name
        row: dict[str, Any] = {"group": group, "device": device, "shape": _rounded(unseen_shapes[device])}
        if device in unseen_device:
            row["left_out"] = _rounded(unseen_device[device])
        table.append(row)
    return values, table


def write(content: dict[str, Any], folder: Path = FITTED) -> Path:
    """Write what `calibrate` gave as YAML; the same content gives the same bytes."""
    path = folder / f"{content['kernel']}.yaml"
    head = "# Written by `moesim calibrate`; parameters are dimensionless or in seconds, errors are fractions.\n"
    path.write_text(head + yaml.safe_dump(content, sort_keys=False, width=120), encoding="utf-8")
    return path


def _short(values: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.{DIGITS}g}") for name, value in values.items()}


def _rounded(ratio: np.ndarray) -> dict[str, float]:
    return {name: value if name == "rows" else round(value, 4) for name, value in errors(ratio).items()}


# ---- the table of the docs


INTRODUCTION = """# Kernel times

How long a GPU kernel takes is predicted by the models in `hwmodels/kernels`: rooflines with structure (tiles,
waves, launches, cache), at most a dozen parameters for each engine and dtype, fitted to the kernels that
NVIDIA measured for aiconfigurator ([source and licence](../hwmodels/measurements/README.md)). They answer
rows of a table:

```sh
moesim ops predict rows.parquet --out answered.parquet
moesim ops predict rows.csv --out answered.csv --device my_gpu.yaml    # a datasheet as in hwmodels/devices
```

A row needs the columns of the measured table that it belongs to, with `system` one of the datasheets.
`origin` says whether the parameters were fitted on that device, on one of its architecture, or on all
measured devices; a row that cannot be answered says why in `reason`. **Simulated runs do not use these models
yet**; they use the fixed efficiencies of [fidelity.md](fidelity.md).

The table is written by `moesim calibrate --report docs/kernels.md`. *Median*, *mean* and *p95* are of the
absolute percentage error on shapes that the fit never saw (five folds); *bias* is the median's. *From
datasheet* is the mean error on a device when only the other devices were fitted; a dash where no other device
was measured. No row is left out. The structure of the models was chosen by looking at these data, so errors
on other data may be larger. Where the last column is above 20 %, do not trust a device that was not measured.
"""


def report(contents: list[dict[str, Any]]) -> str:
    """Markdown page: per device, engine, operator and dtype the errors on unseen shapes and from the datasheet."""
    lines = [
        INTRODUCTION,
        "| operator | engine, dtype | device | rows | median | mean | p95 | bias | from datasheet, mean |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for content in contents:
        for row in content["errors"]:
            shape, other = row["shape"], row.get("left_out")
            cells = [f"{100 * shape[name]:.1f} %" for name in ("median", "mean", "p95")]
            bias = f"{100 * shape['bias']:+.1f} %"
            unseen = f"{100 * other['mean']:.1f} %" if other else "-"
            cells = [content["kernel"], row["group"], row["device"], f"{shape['rows']:,}", *cells, bias, unseen]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append(_total(content))
    return "\n".join(lines)


def _total(content: dict[str, Any]) -> str:
    """The mean over all rows of an operator."""
    rows = content["errors"]
    count = sum(row["shape"]["rows"] for row in rows)
    mean = sum(row["shape"]["mean"] * row["shape"]["rows"] for row in rows) / count
    unseen = [row for row in rows if "left_out" in row]
    other = sum(row["left_out"]["mean"] * row["left_out"]["rows"] for row in unseen) / max(
        1, sum(row["left_out"]["rows"] for row in unseen)
    )
    cells = [f"**{content['kernel']}**", "all", "all", f"{count:,}", "", f"**{100 * mean:.1f} %**", "", ""]
    return f"| {' | '.join(cells)} | **{100 * other:.1f} %** |"
