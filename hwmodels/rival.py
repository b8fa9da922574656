"""What a kernel model has to beat: a roofline that knows nothing of how its kernel works.

    seconds = launch_s + unit_s · units + smooth max((FLOP_s + compute_half_s) / compute,
                                                     (byte_s + memory_half_s) / memory)

FLOP_s and byte_s are the two times of a roofline (Williams et al. 2009) at datasheet peaks, from `Kernel.demand`. Both
rates saturate with the work, x / (x + half), as pipelines do (Hockney's half-performance length). units: what a launch
handles one by one, such as tokens. Seven parameters, fitted by the same rows, groups, folds and loss as the models.
"""

from __future__ import annotations

import numpy as np

from hwmodels.datasheet import Datasheet
from hwmodels.fit import Sample
from hwmodels.kernels.base import Columns, Kernel, Parameter, Values, smooth_max
from hwmodels.operators import Array

PARAMETERS = {
    "launch_s": Parameter(1e-5, 1e-7, 1e-3, 0.3, "start of the kernels"),
    "unit_s": Parameter(3e-8, 1e-13, 1e-4, 0.5, "handling one unit"),
    "compute": Parameter(0.5, 0.01, 1.0, 0.3, "share of peak FLOP/s in the limit of much work"),
    "memory": Parameter(0.7, 0.02, 4.0, 0.3, "share of bandwidth in that limit; above 1 where a cache serves it"),
    "compute_half_s": Parameter(1e-6, 1e-10, 1e-3, 0.5, "work at peak at which half the speed is reached"),
    "memory_half_s": Parameter(1e-6, 1e-10, 1e-3, 0.5, "the same for bytes"),
    "power": Parameter(2.0, 1.0, 8.0, 0.3, "overlap of compute and memory: 1 none"),
}

UNITS = {
    "moe": ("num_tokens",),
    "gemm": ("m",),
    "attention_context": ("batch_size", "isl"),
    "attention_generation": ("batch_size",),
    "mla_context": ("batch_size", "isl"),
    "mla_generation": ("batch_size",),
    "collectives": ("num_gpus",),
    "custom_allreduce": ("num_gpus",),
    "expert_all_to_all": ("num_tokens",),
    "deepep_low_latency": ("num_token",),
}
"""Table -> columns whose product is what a launch handles one by one: tokens, requests, peers."""


class Rival(Kernel):
    """The roofline for the rows of a kernel model, prepared by `sample`."""

    parameters = PARAMETERS

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.name, self.table = f"{kernel.name}_rival", kernel.table
        self.columns, self.shape, self.targets = kernel.columns, kernel.shape, kernel.targets

    def sample(self, sample: Sample) -> Sample:
        """The same rows with the times of the roofline as columns, so that a fit works them out once."""
        compute_s, size_bytes = self.kernel.demand(sample.rows, sample.sheet)
        rows = {
            **{name: sample.rows[name] for name in self.shape},
            "compute_s": compute_s,
            "memory_s": size_bytes / self.kernel.bandwidth(sample.rows, sample.sheet),
            "units": np.prod([np.asarray(sample.rows[n], dtype=np.float64) for n in UNITS[self.table]], axis=0),
        }
        return Sample(sample.sheet, rows, sample.measured_s)

    def group(self, rows: Columns) -> np.ndarray:
        return self.kernel.group(rows)

    def seconds(self, rows: Columns, sheet: Datasheet, values: Values) -> Array:
        compute = (rows["compute_s"] + values["compute_half_s"]) / values["compute"]
        memory = (rows["memory_s"] + values["memory_half_s"]) / values["memory"]
        start = values["launch_s"] + values["unit_s"] * rows["units"]
        return np.asarray(start + smooth_max(compute, memory, values["power"]))

    def demand(self, rows: Columns, sheet: Datasheet) -> tuple[Array, Array]:
        return rows["compute_s"], rows["memory_s"] * sheet.memory_read_bytes_per_s
