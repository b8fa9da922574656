"""Constants of the phone, fitted on the tokens of one recorded run."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.explain import ConfigError
from experiments.run import run_config
from experiments.validation.phone_runs import RecordedRun

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

PRODUCTS = ("gemm", "grouped_gemm")  # kinds of operation that multiply with weights
DIGITS = 4  # of a fitted constant
# what could bound the products, and how one number of the platform says so; (least, most) of that number
STRUCTURES: dict[str, tuple[Callable[[float], dict[str, Any]], tuple[float, float]]] = {
    "arithmetic": (lambda value: {"compute_efficiency": dict.fromkeys(PRODUCTS, value)}, (0.002, 1.0)),
    "bandwidth": (lambda value: {"memory_efficiency": dict.fromkeys(PRODUCTS, value)}, (0.01, 1.0)),
    "operations": (lambda value: {"launch_overhead_s": value}, (1e-7, 1e-3)),
}


@dataclass(frozen=True)
class Constants:
    """What is fitted.

    compute: the number of the structure: share of the peak FLOP/s, share of the memory bandwidth, or seconds per
    operation; cache_lookup_s, cache_evict_s_per_byte: as in `hwmodels.device.Device`; interruptions: compute time
    of interrupted tokens beyond the usual, as a share of all usual compute. The last is no part of the platform.
    """

    structure: str
    compute: float
    cache_lookup_s: float
    cache_evict_s_per_byte: float
    interruptions: float

    @property
    def cpu(self) -> dict[str, Any]:
        """The fields of the platform's cpu that say so."""
        make, _ = STRUCTURES[self.structure]
        management = {name: getattr(self, name) for name in ("cache_lookup_s", "cache_evict_s_per_byte")}
        return {**make(self.compute), **management}


class Simulated(NamedTuple):
    """A simulation: its decoded tokens in the columns of a recorded run with evicted_bytes, and the prompt's seconds.

    stall_s is the time in which the worker does nothing.
    """

    tokens: pd.DataFrame
    prefill_s: float


def simulated(config: dict[str, Any], cpu: dict[str, Any], skip: int = 0) -> Simulated:
    """Run a configuration with some fields of its cpu changed; the first `skip` decoded tokens are left out."""
    import pandas as pd

    changed = copy.deepcopy(config)
    changed["platform"]["devices"]["cpu"].update(cpu)
    records = run_config(changed).records
    rows = [
        {
            "token": number,
            "wall_s": (record.end_ps - record.start_ps) / 1e12,
            "compute_s": (record.busy_ps - record.managed_ps) / 1e12,
            "stall_s": (record.end_ps - record.start_ps - record.busy_ps) / 1e12,
            "management_s": record.managed_ps / 1e12,
            "misses": record.loads,
            "evicted_bytes": record.evicted_bytes,
        }
        for number, record in enumerate([record for record in records if not record.prefill][skip:], start=skip + 1)
    ]
    prompt_s = sum((record.end_ps - record.start_ps) / 1e12 for record in records if record.prefill)
    return Simulated(pd.DataFrame(rows), prompt_s)


def calibrate(run: RecordedRun, structure: str) -> Constants:
    """Fit all constants on a run with routes: `fit_compute`, `fit_management`, and `Constants.interruptions`."""
    compute = fit_compute(run, structure)
    lookup_s, evict_s_per_byte = fit_management(run)
    usual_s = run.tokens.loc[run.undisturbed, "compute_s"].mean()
    interruptions = _rounded(float(run.tokens["compute_s"].mean() / usual_s) - 1)
    return Constants(structure, compute, lookup_s, evict_s_per_byte, interruptions)


def fit_compute(run: RecordedRun, structure: str) -> float:
    """The number of the structure with which the mean `compute_s` of the run's undisturbed tokens is met.

    Raises ConfigError if there is none.
    """
    from scipy.optimize import brentq

    make, (least, most) = STRUCTURES[structure]
    rising = structure == "operations"  # the other numbers are rates: time is linear in their inverse
    config, good = run.config(str(run.trace)), run.undisturbed.to_numpy()
    usual_s = float(run.tokens.loc[good, "compute_s"].mean())

    @functools.cache
    def beyond_s(place: float) -> float:
        tokens = simulated(config, make(place if rising else 1 / place)).tokens
        return float(tokens["compute_s"][good].mean()) - usual_s

    ends = (least, most) if rising else (1 / most, 1 / least)
    if not beyond_s(ends[0]) <= 0 <= beyond_s(ends[1]):
        raise ConfigError(
            f"run {run.name}: compute_s of {usual_s * 1e3:.1f} ms per token is met by no {structure} from {least:g} to"
            f" {most:g} of the platform."
        )
    place = brentq(beyond_s, *ends, rtol=1e-5)
    return _rounded(place if rising else 1 / place)


def fit_management(run: RecordedRun) -> tuple[float, float]:
    """Seconds per look-up of a layer and per evicted byte: least squares, neither below zero.

    From `management_s` of undisturbed tokens and the bytes that the simulation evicts in them.
    """
    import numpy as np

    from traces import data_path, open_trace

    good = run.undisturbed.to_numpy()
    tokens = simulated(run.config(str(run.trace)), {}).tokens
    evicted_bytes = tokens["evicted_bytes"].to_numpy(dtype=np.float64)[good]
    lookups = np.full(len(evicted_bytes), float(len(open_trace(data_path(f"{run.trace}.parquet")).meta.layers)))
    return least_squares(lookups, evicted_bytes, run.tokens["management_s"].to_numpy()[good])


def least_squares(lookups: np.ndarray, evicted_bytes: np.ndarray, management_s: np.ndarray) -> tuple[float, float]:
    """Seconds per look-up and per evicted byte, from one value of each per token."""
    import numpy as np
    from scipy.optimize import nnls

    scale = np.array([lookups.mean(), evicted_bytes.mean() or 1.0])  # columns of about 1, so that both weigh alike
    found, _ = nnls(np.stack([lookups, evicted_bytes], axis=1) / scale, management_s)
    lookup_s, evict_s_per_byte = found / scale
    return _rounded(lookup_s), _rounded(evict_s_per_byte)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
