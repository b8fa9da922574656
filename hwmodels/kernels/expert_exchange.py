"""Exchange of tokens with their experts on other GPUs (expert parallelism): DeepEP, alone and inside engines.

    time    = smooth max(host, launch_cycles / clock + expert_s · E + node_s · log2(nodes)
                               + tokens · (token_s + routed_s · E) + smooth max(links, network) + warps)
    links   = messages to GPUs of the node · bytes of a message / (peer bandwidth · peer_share);
              high throughput: / min(peer bandwidth, copy_rate), for its few SMs are slower than the links
    network = messages to other nodes · bytes of a message / (one NIC · node_share)
    warps   = tokens · k / E · bytes of a message / warp_rate

E experts lie evenly on g GPUs and a token goes to k of them, here taken as uniform. The low-latency kernels send one
message per token and expert: k · (share of experts that lie elsewhere). The high-throughput kernels send a token once
to each GPU that holds one of its experts: g · (1 − (1 − 1/g)^k) GPUs, of which (g − 1)/g are others; they first lay out
tokens × experts. The low-latency kernels receive each expert's messages with one group of warps: few experts, little
parallelism. Fp8 carries a scale per 128 values, 4-bit a byte per 16. It is Hockney's latency-bandwidth model again.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from hwmodels.datasheet import Datasheet
from hwmodels.kernels.base import Columns, Communication, Parameter, Values, smooth_max
from hwmodels.operators import Array

NODE_GPUS = 8
WIDTH = {"default": 2.0, "bfloat16": 2.0, "fp8": 1.0 + 4 / 128, "fp4": 0.5625, "nvfp4": 0.5625}
"""Bytes of a value in a message; what an engine calls its default is bf16."""

LAUNCH = Parameter(
    2e4, 2e3, 1e6, 0.3, "launch and synchronisation of all ranks (latency-bandwidth model: Hockney 1994)"
)
PEER = Parameter(0.6, 0.05, 1.0, 0.2, "share of the peer bandwidth in large messages (Hockney)")


class Exchange(Communication):
    """What both tables share: the formulas of the module."""

    def seconds(self, rows: Columns, sheet: Datasheet, values: Values) -> Array:
        tokens, experts, nodes, near, far, message, routed = self._traffic(rows)
        links = near * message / (sheet.peer_bytes_per_s * values["peer_share"])
        if "copy_rate" in values:
            copies = near * message * np.maximum(1.0 / values["copy_rate"], 1.0 / sheet.peer_bytes_per_s)
            links = np.where(routed > 0, links, copies)
        network = far * message / (sheet.node_bytes_per_s * values.get("node_share", 1.0))
        start = self.launch_s(sheet, values) + values["expert_s"] * experts + values.get("node_s", 0.0) * np.log2(nodes)
        per_token = tokens * (values["token_s"] + values.get("routed_s", 0.0) * experts)
        warps = routed / experts * message / values["warp_rate"] if "warp_rate" in values else 0.0
        time = start + per_token + smooth_max(links, network, 4.0) + warps
        return np.asarray(np.maximum(smooth_max(values.get("host_s", 0.0), time, 4.0), self.floor(rows, sheet)))

    def demand(self, rows: Columns, sheet: Datasheet) -> tuple[Array, Array]:
        """Bytes that leave a GPU, to its node or beyond, whichever takes longer."""
        tokens, _, _, near, far, message, _ = self._traffic(rows)
        return np.zeros_like(tokens), np.where(self._leaves(rows, sheet), far, near) * message

    def bandwidth(self, rows: Columns, sheet: Datasheet) -> Array:
        return np.where(self._leaves(rows, sheet), sheet.node_bytes_per_s, sheet.peer_bytes_per_s)

    def _leaves(self, rows: Columns, sheet: Datasheet) -> np.ndarray:
        """Whether the network to other nodes takes longer than the links within."""
        _, _, _, near, far, _, _ = self._traffic(rows)
        return np.asarray(far / sheet.node_bytes_per_s > near / sheet.peer_bytes_per_s)

    @abstractmethod
    def _traffic(self, rows: Columns) -> tuple[Any, ...]:
        """Tokens of a GPU, experts, nodes; messages within the node and beyond; bytes of one; messages in all."""


TARGETS = {"latency": 1e-6}  # to seconds

ENGINE = {
    "launch_cycles": LAUNCH,
    "expert_s": Parameter(2e-8, 1e-10, 1e-6, 0.3, "signalling one expert's count to its GPU"),
    "token_s": Parameter(1e-9, 1e-12, 1e-6, 0.3, "handling a token whatever its size"),
    "routed_s": Parameter(1e-11, 1e-14, 1e-9, 0.3, "laying out a token over one expert"),
    "peer_share": PEER,
    "copy_rate": Parameter(
        3e11, 1e10, 2e12, 0.3, "bytes/s that the few SMs of a high-throughput kernel can move (DeepEP)"
    ),
    "warp_rate": Parameter(2e10, 1e9, 1e13, 0.3, "bytes/s of the warps that serve one expert (DeepEP, low latency)"),
    "host_s": Parameter(1e-6, 1e-7, 1e-3, 0.3, "host's wait for the sizes to receive"),
}


class ExpertAllToAll(Exchange):
    """Rows of the table `expert_all_to_all`: dispatch or combine inside an engine."""

    name = "expert_all_to_all"
    table = "expert_all_to_all"
    columns = (
        "framework", "comm_backend", "phase", "comm_dtype", "ep_size", "node_num",
        "hidden_size", "topk", "num_experts", "num_tokens",
    )  # fmt: skip
    shape = ("hidden_size", "topk", "num_experts", "num_tokens")
    targets = TARGETS
    parameters = ENGINE

    def group(self, rows: Columns) -> np.ndarray:
        """Engine, kernel and phase."""
        parts = zip(rows["framework"], rows["comm_backend"], rows["phase"], strict=True)
        return np.array(["/".join(part) for part in parts], dtype=object)

    def fallback(self, group: str, known: list[str]) -> str | None:
        """The same phase of a kernel of the same kind: low latency or high throughput."""
        _, backend, phase = group.split("/")
        alike = sorted(name for name in known if name.split("/")[2] == phase)
        kind = [name for name in alike if _low_latency(name.split("/")[1]) == _low_latency(backend)]
        return min(kind or alike, default=None)

    def reason(self, rows: Columns, sheet: Datasheet) -> np.ndarray:
        out = _positive(rows, ("num_tokens", "hidden_size", "topk", "num_experts", "ep_size", "node_num"))
        for name in set(np.asarray(rows["phase"]).tolist()) - {"dispatch", "combine"}:
            out[np.asarray(rows["phase"]) == name] = f"phase '{name}' is neither dispatch nor combine"
        for name in set(np.asarray(rows["comm_dtype"]).tolist()) - set(WIDTH):
            out[np.asarray(rows["comm_dtype"]) == name] = f"comm_dtype '{name}' is not one of {', '.join(WIDTH)}"
        return out

    def _traffic(self, rows: Columns) -> tuple[Any, ...]:
        tokens, hidden, topk, experts, gpus, nodes = _numbers(
            rows, ("num_tokens", "hidden_size", "topk", "num_experts", "ep_size", "node_num")
        )
        direct = np.array([_low_latency(name) for name in rows["comm_backend"]])
        combine = np.asarray(rows["phase"], dtype=str) == "combine"
        width = np.array([WIDTH.get(name, 2.0) for name in rows["comm_dtype"]])
        width = np.where(combine & ~direct, 2.0, width)  # high throughput combines in bf16 whatever was dispatched
        destinations = np.where(direct, topk, gpus * (1.0 - (1.0 - 1.0 / gpus) ** topk))
        local = np.minimum(gpus / nodes, gpus)
        near, far = tokens * destinations * (local - 1.0) / gpus, tokens * destinations * (gpus - local) / gpus
        return tokens, experts, nodes, near, far, hidden * width, np.where(direct, tokens * topk, 0.0)


LOW_LATENCY = {
    "launch_cycles": LAUNCH,
    "expert_s": ENGINE["expert_s"],
    "token_s": ENGINE["token_s"],
    "node_s": Parameter(5e-6, 1e-7, 1e-4, 0.3, "latency of the network, by each doubling of the nodes"),
    "peer_share": PEER,
    "node_share": Parameter(0.85, 0.1, 1.0, 0.1, "share of the NIC's bandwidth (Hockney)"),
    "warp_rate": ENGINE["warp_rate"],
}


class DeepEpLowLatency(Exchange):
    """Rows of the table `deepep_low_latency`: DeepEP's own test, one phase."""

    table = "deepep_low_latency"
    columns = ("node_num", "hidden_size", "num_token", "num_topk", "num_experts")
    shape = ("node_num", "hidden_size", "num_topk", "num_experts", "num_token")
    parameters = LOW_LATENCY

    def __init__(self, phase: str, width: float) -> None:
        self.name = f"deepep_low_latency_{phase}"
        self.targets = {f"{phase}_avg_t_us": 1e-6}
        self.width = width

    def group(self, rows: Columns) -> np.ndarray:
        """One kernel."""
        return np.full(len(rows["num_token"]), "DeepEP", dtype=object)

    def fallback(self, group: str, known: list[str]) -> str | None:
        return known[0] if known else None

    def reason(self, rows: Columns, sheet: Datasheet) -> np.ndarray:
        return _positive(rows, ("num_token", "hidden_size", "num_topk", "num_experts", "node_num"))

    def _traffic(self, rows: Columns) -> tuple[Any, ...]:
        tokens, hidden, topk, experts, nodes = _numbers(
            rows, ("num_token", "hidden_size", "num_topk", "num_experts", "node_num")
        )
        gpus = NODE_GPUS * nodes
        near, far = tokens * topk * (NODE_GPUS - 1.0) / gpus, tokens * topk * (gpus - NODE_GPUS) / gpus
        return tokens, experts, nodes, near, far, hidden * self.width, tokens * topk


def _low_latency(backend: str) -> bool:
    """Whether a kernel sends each token to each of its experts, for decoding; the others send once to each GPU."""
    return backend.endswith(("_ll", "_generation"))


def _numbers(rows: Columns, names: tuple[str, ...]) -> list[Array]:
    return [np.asarray(rows[name], dtype=np.float64) for name in names]


def _positive(rows: Columns, names: tuple[str, ...]) -> np.ndarray:
    out = np.full(len(rows[names[0]]), "", dtype=object)
    for name in names:
        out[~(np.asarray(rows[name], dtype=np.float64) > 0)] = f"{name} must be above zero"
    return out


KERNELS = (
    ExpertAllToAll(),
    DeepEpLowLatency("dispatch", WIDTH["fp8"]),
    DeepEpLowLatency("combine", WIDTH["bfloat16"]),
)
