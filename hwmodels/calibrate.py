"""Fitting every kernel model to the shipped measurements, with its error on shapes and devices that it never saw.

A fitted file holds, for each group, parameters as names and values, and
    model_error  device -> `fit.model_error` on unseen shapes ("shape") and from the other devices ("left_out")
The file of the same name in its folder `evidence`, which a run does not read, holds for each group, as lists in the
order of `Kernel.parameters`,
    draws        "prior" and device -> parameters of the bootstrap, one list a draw; the n-th draws belong together
    held_out     device -> one list a fold: fitted without the shapes of that fold
    left_out     device -> fitted without that device
and the `errors` of held_out and left_out, which anybody can work out again (`judged`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hwmodels.datasheet import datasheet
from hwmodels.errors import PlatformError
from hwmodels.fit import (
    Sample,
    draws,
    errors,
    fit_group,
    fold_fits,
    held_out,
    left_out,
    model_error,
    other_fits,
    samples,
)
from hwmodels.kernels import Kernel, kernels
from hwmodels.predict import EVIDENCE, FITTED, read_yaml
from hwmodels.rival import Rival

MEASUREMENTS = Path(__file__).parent / "measurements"
DIGITS = 5  # of fitted parameters
DRAWN_DIGITS = 4  # of those of the bootstrap
PROVEN_BY = ("draws", "held_out", "left_out")  # what of a group stands in the file of evidence


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

    errors: a row for each group and device with its errors on unseen shapes (`shape`), those of the plain roofline
    (`rival`), and predicted from the other devices (`left_out`, where there are others). workers: processes, a group
    at a time; the result does not depend on their number.
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
    from threadpoolctl import threadpool_limits

    kernel = kernels()[name]
    data = load(kernel)[group]
    with threadpool_limits(1):
        prior, own = fit_group(kernel, data)
        drawn_priors, drawn = draws(kernel, data, prior, own, f"{name}/{group}")
        folds = {device: [_short(fit) for fit in fits] for device, fits in fold_fits(kernel, data).items()}
        others = {device: _short(fit) for device, fit in other_fits(kernel, data).items()}
        rival = Rival(kernel)
        beaten = held_out(rival, [rival.sample(sample) for sample in data])
    judged = {"shape": held_out(kernel, data, folds), "left_out": left_out(kernel, data, others)}
    values = {
        "prior": _short(prior),
        "devices": {device: _short(found) for device, found in own.items()},
        "draws": {name: [_listed(kernel, fit, DRAWN_DIGITS) for fit in fits] for name, fits in drawn.items()}
        | {"prior": [_listed(kernel, fit, DRAWN_DIGITS) for fit in drawn_priors]},
        "held_out": {device: [_listed(kernel, fit) for fit in fits] for device, fits in folds.items()},
        "left_out": {device: _listed(kernel, fit) for device, fit in others.items()},
        "model_error": {sample.sheet.name: _model_errors(kernel, sample, judged) for sample in data},
    }
    table: list[dict[str, Any]] = []
    for sample in data:
        device = sample.sheet.name
        row: dict[str, Any] = {"group": group, "device": device}
        row |= {kind: _rounded(ratios[device]) for kind, ratios in judged.items() if device in ratios}
        table.append(row | {"rival": _rounded(beaten[device])})
    return values, table


def judged(content: Mapping[str, Any]) -> Iterator[tuple[str, Sample, np.ndarray]]:
    """(group, sample, predicted over measured by the fit without each row's shape) of every device in a fitted file.

    Nothing is fitted. Raises PlatformError if the file does not belong to this model or to these measurements.
    """
    kernel = kernels()[content["kernel"]]
    if content["data_sha256"] != data_digest(kernel.table):
        raise PlatformError(f"{kernel.name}: fitted to other measurements of '{kernel.table}'; run moesim calibrate.")
    for group, data in load(kernel).items():
        stored = content["groups"].get(group, {})
        fits = {device: [named(kernel, fit) for fit in folds] for device, folds in stored.get("held_out", {}).items()}
        if set(fits) != {sample.sheet.name for sample in data} or list(stored["prior"]) != list(kernel.parameters):
            raise PlatformError(
                f"{kernel.name}: the parameters of {group} are not of this model; run moesim calibrate."
            )
        ratios = held_out(kernel, data, fits)
        yield from ((group, sample, ratios[sample.sheet.name]) for sample in data)


def named(kernel: Kernel, values: Sequence[float]) -> dict[str, float]:
    """Parameters from a list in their order."""
    return dict(zip(kernel.parameters, values, strict=True))


def write(content: dict[str, Any], folder: Path = FITTED) -> Path:
    """Write what `calibrate` gave as two YAML files; the same content gives the same bytes. The file of parameters."""
    name = content["kernel"]
    head = {"kernel": name, "data_sha256": content["data_sha256"]}
    groups = content["groups"].items()
    used = {group: {key: values[key] for key in values if key not in PROVEN_BY} for group, values in groups}
    proof = {group: {key: values[key] for key in values if key in PROVEN_BY} for group, values in groups}
    (folder / EVIDENCE).mkdir(exist_ok=True)
    _write(folder / EVIDENCE / f"{name}.yaml", head | {"groups": proof, "errors": content["errors"]})
    _write(folder / f"{name}.yaml", head | {"groups": used})
    return folder / f"{name}.yaml"


def _write(path: Path, content: dict[str, Any]) -> None:
    head = "# Written by `moesim calibrate`; parameters: dimensionless, seconds or cycles; errors: fractions.\n"
    path.write_text(head + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=160), encoding="utf-8")


def read(folder: Path = FITTED) -> list[dict[str, Any]]:
    """What `write` wrote there. Raises PlatformError if there is nothing, or a file is no fitted model."""
    names = [name for name in kernels() if (folder / f"{name}.yaml").is_file()]
    if not names:
        raise PlatformError(f"{folder}: there is no fitted kernel model here; run moesim calibrate.")
    found = []
    for name in names:
        content = _read(folder / f"{name}.yaml")
        path = folder / EVIDENCE / f"{name}.yaml"
        proof = _read(path, "errors")
        if proof["data_sha256"] != content["data_sha256"] or set(proof["groups"]) != set(content["groups"]):
            raise PlatformError(f"{path}: this does not belong to the parameters in {folder}; run moesim calibrate.")
        for row in proof["errors"]:
            for kind in {"shape", "rival"} - set(row):
                raise PlatformError(f"{path}: field 'errors' has no '{kind}' for {row['group']}; run moesim calibrate.")
        groups = {group: values | proof["groups"][group] for group, values in content["groups"].items()}
        found.append(content | {"groups": groups, "errors": proof["errors"]})
    return found


def _read(path: Path, *more: str) -> dict[str, Any]:
    """The fields of a file that `write` wrote. Raises PlatformError naming the file if there are none."""
    content = read_yaml(path)
    missing = {"kernel", "data_sha256", "groups", *more} - set(content if isinstance(content, dict) else ())
    if missing:
        raise PlatformError(f"{path}: field '{min(missing)}' is missing; run moesim calibrate.")
    return dict(content)


class _Listed(list[float]):
    """Numbers on one line."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _Listed, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)
)


def _listed(kernel: Kernel, values: Mapping[str, float], digits: int = DIGITS) -> _Listed:
    return _Listed(_short(values, digits)[name] for name in kernel.parameters)


def _short(values: Mapping[str, float], digits: int = DIGITS) -> dict[str, float]:
    return {name: float(f"{value:.{digits}g}") for name, value in values.items()}


def _rounded(ratio: np.ndarray) -> dict[str, float]:
    return {name: value if name == "rows" else round(value, 4) for name, value in errors(ratio).items()}


def _model_errors(kernel: Kernel, sample: Sample, judged: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    found = {}
    for kind, ratios in judged.items():
        if sample.sheet.name in ratios:
            numbers = model_error(kernel, sample, ratios[sample.sheet.name])
            found[kind] = {name: round(value, 4) for name, value in numbers.items()}
    return found
