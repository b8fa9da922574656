"""Answering rows of a measured table from the fitted kernel models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from hwmodels.datasheet import Datasheet, datasheet, datasheet_names
from hwmodels.errors import PlatformError
from hwmodels.kernels import Kernel, kernels
from hwmodels.likeness import likeness, mean_values

if TYPE_CHECKING:
    import pandas as pd

FITTED = Path(__file__).parent / "fitted"
EVIDENCE = "evidence"  # folder beside the parameters: how they were found and judged
TEXTS = (
    *("framework", "version", "kernel_source", "distribution", "comm_backend", "op_name", "phase"),
    *(f"{what}_dtype" for what in ("moe", "gemm", "attn", "kv_cache", "mla", "nccl", "allreduce", "comm")),
)
"""Columns of the measured tables that hold text; all others that a model needs hold numbers."""


@dataclass(frozen=True)
class Fitted:
    """Parameters of a kernel model.

    groups: group -> {"prior": values, "devices": {device: values}, "model_error": {device: errors}}.
    """

    kernel: str
    data_sha256: str
    groups: dict[str, dict[str, Any]]

    def values(self, kernel: Kernel, group: str, sheet: Datasheet) -> tuple[dict[str, float], str] | None:
        """(parameters for this group on this device, where they are from); None if no group can stand in.

        A device that was not measured takes the parameters of one of its architecture, else the means of those of all
        measured devices, which count by their likeness to it (`likeness`).
        """
        place = self._place(kernel, group, sheet)
        if place is None:
            return None
        name, shares = place
        stand_in = "" if name == group else f", by those of {name}"
        devices = self.groups[name]["devices"]
        if len(shares) == 1:
            (device,) = shares
            return devices[device], f"fitted on {device}{stand_in}"
        counted = ", ".join(f"{device} {100 * share:.0f} %" for device, share in shares.items() if share >= 0.005)
        return mean_values([devices[device] for device in shares], [*shares.values()]), f"from {counted}{stand_in}"

    def drawn(self, kernel: Kernel, group: str, sheet: Datasheet, number: int) -> dict[str, float]:
        """The same parameters as the `number`-th draw of the bootstrap has them; draws repeat when they run out.

        Raises PlatformError if nothing can stand in for the group.
        """
        place = self._place(kernel, group, sheet)
        if place is None:
            raise PlatformError(f"no measurement of {group} or of anything like it.")
        name, shares = place
        found = []
        for device in shares:
            draws = _draws(self.kernel)[name][device]
            found.append(dict(zip(kernel.parameters, draws[number % len(draws)], strict=True)))
        return mean_values(found, [*shares.values()])

    def spread(self, group: str, sheet: Datasheet) -> float:
        """Standard deviation of the logarithm of predicted over true time of one shape, beyond the parameters'.

        Of a measured device: that between shapes the fit never saw. Of another: the mean, over the devices of the
        group, of what the others' parameters miss, spread and bias together; where the group has one device
        alone, over the devices of all groups of this model; without any, twice the former.
        """
        found: dict[str, dict[str, dict[str, float]]] = self.groups[group]["model_error"]
        if sheet.name in found:
            return found[sheet.name]["shape"]["between"]
        everyone = [error for other in self.groups.values() for error in other["model_error"].values()]
        for errors in (list(found.values()), everyone):
            unseen = [np.hypot(e["left_out"]["between"], e["left_out"]["bias"]) for e in errors if "left_out" in e]
            if unseen:
                return float(np.mean(unseen))
        return float(np.mean([2 * error["shape"]["between"] for error in everyone]))

    def _place(self, kernel: Kernel, group: str, sheet: Datasheet) -> tuple[str, dict[str, float]] | None:
        """(group, device -> by what share its parameters count) to be used."""
        name: str | None = group
        if group not in self.groups:
            name = kernel.fallback(group, sorted(self.groups))
            if name is None or name not in self.groups:
                return None
        assert name is not None
        devices = self.groups[name]["devices"]
        if sheet.name in devices:
            return name, {sheet.name: 1.0}
        kin = [device for device in devices if datasheet(device).architecture == sheet.architecture][:1]
        return name, likeness(kernel, sheet, [datasheet(device) for device in kin or devices])


@cache
def fitted(name: str) -> Fitted:
    """The shipped parameters of a kernel model. Raises PlatformError if it was not fitted."""
    content = read_yaml(FITTED / f"{name}.yaml")
    return Fitted(content["kernel"], content["data_sha256"], content["groups"])


@cache
def _draws(name: str) -> dict[str, dict[str, list[list[float]]]]:
    """Group -> device -> the shipped draws of a kernel model's bootstrap. Raises PlatformError if there are none."""
    content = read_yaml(FITTED / EVIDENCE / f"{name}.yaml")
    return {group: values["draws"] for group, values in content["groups"].items()}


def read_yaml(path: Path) -> Any:
    """What a fitted file holds. Raises PlatformError naming it if it is missing or is no YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise PlatformError(f"{path}: there is no such fitted kernel model; run moesim calibrate.") from error
    except yaml.YAMLError as error:
        raise PlatformError(f"{path}: this is not YAML ({str(error).splitlines()[0]}).") from error


def tables() -> list[str]:
    """Names of the tables that can be answered."""
    return sorted({kernel.table for kernel in kernels().values()})


def table_of(columns: list[str]) -> list[str]:
    """The tables whose inputs all stand in these columns, those that need most of them first."""
    fitting = [kernel for kernel in kernels().values() if set(kernel.columns) <= set(columns)]
    most = max((len(kernel.columns) for kernel in fitting), default=0)
    return sorted({kernel.table for kernel in fitting if len(kernel.columns) == most})


def predict(frame: pd.DataFrame, table: str, sheets: Mapping[str, Datasheet] | None = None) -> pd.DataFrame:
    """`frame` with a column of predicted seconds for each target of the table, `origin` and `reason`.

    sheets: datasheets of the caller's own by name of the system, before the presets. A row that cannot be answered
    has no prediction and says why in `reason`. Raises PlatformError for an unknown table or missing columns.
    """
    import pandas as pd

    found = [kernel for kernel in kernels().values() if kernel.table == table]
    if not found:
        raise PlatformError(f"there is no kernel model for table '{table}' (there are: {', '.join(tables())}).")
    needed = dict.fromkeys(("system", *(name for kernel in found for name in kernel.columns)))
    missing = [name for name in needed if name not in frame]
    if missing:
        raise PlatformError(f"column '{missing[0]}' is missing; table '{table}' needs {', '.join(needed)}.")
    columns = {str(name): frame[name].to_numpy() for name in frame.columns}
    for name in needed:
        if name not in (*TEXTS, "system"):  # text where a number belongs is a missing number
            columns[name] = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64)
    out = frame.copy()
    reasons = np.full(len(frame), "", dtype=object)
    origins = np.full(len(frame), "", dtype=object)
    for kernel in found:
        seconds, origins, reasons = _answers(kernel, columns, dict(sheets or {}))
        out[f"{kernel.name}_s"] = seconds
    out["origin"] = origins
    out["reason"] = reasons
    return out


def _answers(
    kernel: Kernel, columns: dict[str, np.ndarray], sheets: dict[str, Datasheet]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds, their origin, and why there are none, per row."""
    count = len(columns["system"])
    seconds = np.full(count, np.nan)
    origins, reasons = np.full(count, "", dtype=object), np.full(count, "", dtype=object)
    parameters = fitted(kernel.name)
    systems = columns["system"].astype(str)
    for system in sorted(set(systems.tolist())):
        mine = np.flatnonzero(systems == system)
        sheet = sheets.get(system) or (datasheet(system) if system in datasheet_names() else None)
        if sheet is None:
            reasons[mine] = f"there is no datasheet of '{system}' (there are: {', '.join(datasheet_names())})"
            continue
        rows = {name: values[mine] for name, values in columns.items()}
        why = kernel.reason(rows, sheet)
        reasons[mine] = why
        good = np.flatnonzero(why == "")
        rows = {name: values[good] for name, values in rows.items()}
        groups = kernel.group(rows) if len(good) else np.array([])
        for group in sorted(set(groups.tolist())):
            chosen = np.flatnonzero(groups == group)
            place = mine[good[chosen]]
            found = parameters.values(kernel, group, sheet)
            if found is None:
                reasons[place] = f"no measurement of {group} or of anything like it"
                continue
            part = {name: values[chosen] for name, values in rows.items()}
            seconds[place] = kernel.seconds(part, sheet, found[0])
            origins[place] = found[1]
    return seconds, origins, reasons
