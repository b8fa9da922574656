"""Collectives among the GPUs of one node (or one NVLink domain): NCCL's, and the engines' own all-reduce.

    time      = launch + min over protocols of  delay + hop · steps + bytes sent / (links · share) + own copy
    bytes     = S · (g − 1) / g  for all_gather, reduce_scatter, alltoall of S bytes in all; twice for all_reduce
    steps     = g − 1 (ring), 2 (g − 1) for all_reduce, 1 for alltoall
    own copy  = what a GPU moves for itself, own · S / g, at the rate of the links
    launch    = launch_cycles / clock; steps over links take their seconds whatever the clock
    links     = peer bandwidth, times (2 / g)^contention over PCIe, where GPUs share host bridges and have no switch

That is Hockney's latency-bandwidth model twice: a protocol of low latency that spends bandwidth on flags (NCCL's LL and
LL128) and one of full bandwidth that must synchronise first (Simple); a library takes the faster. The engines' own
all-reduce has a one-shot (every GPU reads everybody's whole message: (g − 1) · S, one step) and a two-shot algorithm
(as the ring, two steps), up to the size of its workspace, beyond which NCCL takes over with its larger delay. An eager
engine waits for its host and copies the message (2 S over the memory bandwidth).
"""

from __future__ import annotations

import numpy as np

from hwmodels.datasheet import Datasheet
from hwmodels.kernels.base import Columns, Communication, Parameter, Values, smooth_max
from hwmodels.operators import Array

WIDTH = {"half": 2.0, "float16": 2.0, "bfloat16": 2.0, "float": 4.0, "float32": 4.0, "int8": 1.0, "fp8": 1.0}
OPERATIONS = ("all_gather", "all_reduce", "alltoall", "reduce_scatter")
WITHOUT_SWITCH_REDUCTION = ("Volta", "Turing", "Ampere", "Ada")  # NVLink SHARP came with Hopper
NODE_GPUS = 8  # from which NCCL lets the switch reduce
OWN = 0.4  # as fitted to NCCL's collectives

LAUNCH = Parameter(8e3, 1e3, 1e5, 0.3, "launch and first synchronisation (latency-bandwidth model: Hockney 1994)")
HOP = Parameter(1e-6, 2e-8, 2e-5, 0.3, "latency of a step (Hockney)")
CONTENTION = Parameter(1.0, 0.1, 3.0, 0.3, "power by which GPUs on PCIe slow each other; 1 shares one host bridge")


def links(gpus: Array, sheet: Datasheet, contention: float) -> Array:
    """Bytes/s that one of so many GPUs can send to its peers."""
    if sheet.switched:
        return np.full(len(gpus), sheet.peer_bytes_per_s)
    return np.asarray(sheet.peer_bytes_per_s * np.minimum(1.0, 2.0 / gpus) ** contention)


TARGETS = {"latency": 1e-3}  # to seconds

NCCL = {
    "launch_cycles": LAUNCH,
    "hop_s": HOP,
    "fast_share": Parameter(0.3, 0.02, 1.0, 0.2, "share of the links under the low-latency protocol (NCCL LL, LL128)"),
    "delay_s": Parameter(1e-5, 1e-7, 1e-3, 0.3, "what the full-bandwidth protocol takes longer to start (NCCL Simple)"),
    "full_share": Parameter(0.75, 0.1, 1.0, 0.1, "share of the links under the full-bandwidth protocol"),
    "own": Parameter(0.4, 0.02, 1.5, 0.3, "cost of copying the own part, in bytes sent"),
    "contention": CONTENTION,
}


class Collectives(Communication):
    """Rows of the table `collectives`; see the module for the formulas."""

    name = "collectives"
    table = "collectives"
    columns = ("op_name", "nccl_dtype", "num_gpus", "message_size")
    shape = ("op_name", "num_gpus", "message_size")
    targets = TARGETS
    parameters = NCCL

    def group(self, rows: Columns) -> np.ndarray:
        """The operation."""
        return np.array([f"NCCL/{name}" for name in rows["op_name"]], dtype=object)

    def reason(self, rows: Columns, sheet: Datasheet) -> np.ndarray:
        return _reasons(rows, "nccl_dtype", np.asarray(rows["op_name"]))

    def seconds(self, rows: Columns, sheet: Datasheet, values: Values) -> Array:
        gpus, size, sent, steps = _ring(rows, rows["op_name"], rows["nccl_dtype"])
        rate = links(gpus, sheet, values["contention"])
        moved = sent + values["own"] * size / gpus
        fast = moved / (rate * values["fast_share"])
        full = values["delay_s"] + moved / (rate * values["full_share"])
        time = self.launch_s(sheet, values) + values["hop_s"] * steps + np.minimum(fast, full)
        return np.asarray(np.maximum(time, self.floor(rows, sheet)))

    def demand(self, rows: Columns, sheet: Datasheet) -> tuple[Array, Array]:
        """Bytes that must leave a GPU over its links; a switch that reduces halves those of an all-reduce."""
        return _demand(rows, rows["op_name"], rows["nccl_dtype"])

    def bandwidth(self, rows: Columns, sheet: Datasheet) -> Array:
        return np.full(len(rows["num_gpus"]), sheet.peer_bytes_per_s)


ALL_REDUCE = {
    "launch_cycles": LAUNCH,
    "hop_s": HOP,
    "one_shot_share": Parameter(0.5, 0.02, 1.0, 0.2, "share of the links when each GPU reads all messages"),
    "two_shot_share": Parameter(0.6, 0.02, 1.0, 0.2, "share of the links when each GPU reduces its part"),
    "workspace_bytes": Parameter(6e6, 2e5, 1e8, 0.3, "size beyond which NCCL takes over"),
    "delay_s": Parameter(2e-5, 1e-7, 1e-3, 0.3, "what NCCL takes longer to start"),
    "full_share": Parameter(0.75, 0.1, 1.0, 0.1, "share of the links in NCCL's ring"),
    "switch_share": Parameter(0.6, 0.1, 1.0, 0.1, "share of the links where the switch reduces (NVLink SHARP)"),
    "contention": CONTENTION,
    "host_s": Parameter(2e-6, 1e-7, 1e-3, 0.5, "host's time per call where no CUDA graph is replayed"),
    "copy": Parameter(0.5, 0.01, 3.0, 0.3, "copies of the message that an eager engine makes, in memory bandwidth"),
}


class CustomAllReduce(Communication):
    """Rows of the table `custom_allreduce`; see the module for the formulas."""

    name = "custom_allreduce"
    table = "custom_allreduce"
    columns = ("kernel_source", "allreduce_dtype", "num_gpus", "message_size")
    shape = ("num_gpus", "message_size")
    targets = TARGETS
    parameters = ALL_REDUCE

    def group(self, rows: Columns) -> np.ndarray:
        """The implementation, and whether it is replayed from a graph or launched eagerly."""
        return np.array([str(name) for name in rows["kernel_source"]], dtype=object)

    def fallback(self, group: str, known: list[str]) -> str | None:
        """An eager one for an eager one, else one from a graph."""
        alike = [name for name in sorted(known) if ("eager" in name) == ("eager" in group)]
        return max(alike or known, default=None)

    def reason(self, rows: Columns, sheet: Datasheet) -> np.ndarray:
        return _reasons(rows, "allreduce_dtype", np.full(len(rows["num_gpus"]), "all_reduce"))

    def seconds(self, rows: Columns, sheet: Datasheet, values: Values) -> Array:
        operation = np.full(len(rows["num_gpus"]), "all_reduce")
        gpus, size, sent, _ = _ring(rows, operation, rows["allreduce_dtype"])
        rate = links(gpus, sheet, values["contention"])
        nvlink = sheet.switched
        one = values["hop_s"] * (gpus - 1.0) + size * (gpus - 1.0) / (rate * values["one_shot_share"])
        two = 2.0 * values["hop_s"] * (gpus - 1.0) + sent / (rate * values["two_shot_share"])
        own = np.where(nvlink | (gpus <= 2), np.minimum(one, two), two)
        filling = (size / values["workspace_bytes"]) ** 8
        bulk = (sent + OWN * size / gpus) / values["full_share"]
        if nvlink and sheet.architecture not in WITHOUT_SWITCH_REDUCTION:
            multicast = size * (1.0 + 1.0 / gpus) / values["switch_share"]
            bulk = np.where(gpus >= NODE_GPUS, multicast, bulk)
        ring = 2.0 * values["hop_s"] * (gpus - 1.0) + bulk / rate
        beyond = np.maximum(own, ring)
        time = own + (values["delay_s"] + beyond - own) * filling / (1.0 + filling)
        time = time + self.launch_s(sheet, values) + values["copy"] * 2.0 * size / sheet.memory_read_bytes_per_s
        return np.asarray(np.maximum(smooth_max(values["host_s"], time, 8.0), self.floor(rows, sheet)))

    def demand(self, rows: Columns, sheet: Datasheet) -> tuple[Array, Array]:
        """As for a collective."""
        return _demand(rows, np.full(len(rows["num_gpus"]), "all_reduce"), rows["allreduce_dtype"])

    def bandwidth(self, rows: Columns, sheet: Datasheet) -> Array:
        return np.full(len(rows["num_gpus"]), sheet.peer_bytes_per_s)


def _ring(rows: Columns, operation: np.ndarray, dtype: np.ndarray) -> tuple[Array, Array, Array, Array]:
    """GPUs, bytes of the whole message, bytes that each sends, steps of a ring."""
    gpus = np.asarray(rows["num_gpus"], dtype=np.float64)
    names, which = np.unique(np.asarray(dtype, dtype=str), return_inverse=True)
    size = np.asarray(rows["message_size"], dtype=np.float64)
    size = size * np.array([WIDTH.get(name, 2.0) for name in names.tolist()])[which]
    operation = np.asarray(operation, dtype=str)
    times = np.where(operation == "all_reduce", 2.0, 1.0)
    steps = np.where(operation == "alltoall", 1.0, times * (gpus - 1.0))
    return gpus, size, times * size * (gpus - 1.0) / gpus, steps


def _demand(rows: Columns, operation: np.ndarray, dtype: np.ndarray) -> tuple[Array, Array]:
    gpus, size, _, _ = _ring(rows, operation, dtype)
    return np.zeros_like(gpus), size * (gpus - 1.0) / gpus


def _reasons(rows: Columns, dtype: str, operation: np.ndarray) -> np.ndarray:
    out = np.full(len(rows["num_gpus"]), "", dtype=object)
    out[~(np.asarray(rows["num_gpus"], dtype=np.float64) >= 2)] = "num_gpus must be at least 2"
    out[~(np.asarray(rows["message_size"], dtype=np.float64) > 0)] = "message_size must be above zero"
    for name in set(np.asarray(rows[dtype]).tolist()) - set(WIDTH):
        out[np.asarray(rows[dtype]) == name] = f"{dtype} '{name}' is not one of {', '.join(WIDTH)}"
    for name in set(operation.tolist()) - set(OPERATIONS):
        out[operation == name] = f"op_name '{name}' is not one of {', '.join(OPERATIONS)}"
    return out


KERNELS = (Collectives(), CustomAllReduce())
