"""What the GPUs of a layout send each other in a layer, by the fitted kernel models of collectives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwmodels.datasheet import Datasheet
from hwmodels.kernels import kernels
from hwmodels.kernels.expert_exchange import WIDTH
from hwmodels.operators import Array
from hwmodels.predict import fitted

NODE_GPUS = {"gb200": 72, "gb300": 72}
"""GPUs that share NVLink, where that is not 8."""

NETWORK_HOP_S = 1e-5  # of a message between nodes: RDMA write with a flag, about 5 us each way; assumed
OWN_KERNEL = {"VLLM": "vLLM_custom_graph", "TRTLLM": "TRTLLM"}


def all_reduce_s(sheet: Datasheet, engine: str, gpus: int, size_bytes: Array) -> Array:
    """Seconds in which `gpus` GPUs sum a message of so many bytes; beyond a node each GPU of it takes its share of the
    message to its peers on the other nodes in a ring.
    """
    node = NODE_GPUS.get(sheet.name, 8)
    inside = min(gpus, node)
    seconds = np.zeros_like(size_bytes)
    if inside > 1:
        seconds = _answer("custom_allreduce", OWN_KERNEL[engine], sheet, inside, size_bytes)
    nodes = -(-gpus // node)
    if nodes > 1:
        share = size_bytes / inside
        sent = 2 * share * (nodes - 1) / nodes / sheet.node_bytes_per_s
        seconds = seconds + 2 * (nodes - 1) * NETWORK_HOP_S + sent
    return np.asarray(seconds)


def gather_s(sheet: Datasheet, gpus: int, size_bytes: Array, operation: str = "all_gather") -> Array:
    """Seconds of NCCL's all_gather or reduce_scatter of `size_bytes` in all."""
    node = NODE_GPUS.get(sheet.name, 8)
    inside = min(gpus, node)
    seconds = np.zeros_like(size_bytes)
    if inside > 1:
        seconds = _answer("collectives", f"NCCL/{operation}", sheet, inside, size_bytes)
    nodes = -(-gpus // node)
    if nodes > 1:
        seconds = (
            seconds + (nodes - 1) * NETWORK_HOP_S + size_bytes / inside * (nodes - 1) / nodes / (sheet.node_bytes_per_s)
        )
    return np.asarray(seconds)


def exchange_s(
    sheet: Datasheet,
    engine: str,
    gpus: int,
    shape: tuple[int, int, int],
    size_bytes: Array,
    phase: str,
    decode: bool,
) -> Array:
    """Seconds in which `gpus` GPUs send tokens to their experts (phase "dispatch") or results back ("combine"), when
    the busiest of them sends or receives `size_bytes`, a token once to each GPU.

    shape: hidden size, top-k, experts. DeepEP's kernels of the engine: those of low latency for `decode`, else those of
    high throughput (hwmodels.kernels.expert_exchange). These take tokens that are routed uniformly: they are given as
    many on each GPU as would then send so many bytes, n = bytes / (2 hidden · g (1 − (1 − 1/g)^k) · (g − 1) / g).
    """
    hidden, top_k, experts = shape
    framework, kernel = (
        ("vLLM", "deepep_ll" if decode else "deepep_ht")
        if engine == "VLLM"
        else ("TRTLLM", "trtllm_deepep_ll" if decode else "trtllm_deepep_ht")
    )
    reached = gpus * (1.0 - (1.0 - 1.0 / gpus) ** top_k) * (gpus - 1.0) / gpus
    tokens = size_bytes / (WIDTH["bfloat16"] * hidden * reached)
    group = f"{framework}/{kernel}/{phase}"
    model = kernels()["expert_all_to_all"]
    found = fitted("expert_all_to_all").values(model, group, sheet)
    assert found is not None  # these groups are fitted
    texts = {"framework": framework, "comm_backend": kernel, "phase": phase, "comm_dtype": "bfloat16"}
    numbers = {"ep_size": gpus, "node_num": -(-gpus // NODE_GPUS.get(sheet.name, 8)), "hidden_size": hidden}
    numbers |= {"topk": top_k, "num_experts": experts}
    rows = {name: np.full(len(tokens), text, dtype=object) for name, text in texts.items()}
    rows |= {name: np.full(len(tokens), float(value)) for name, value in numbers.items()}
    rows["num_tokens"] = tokens
    return np.asarray(np.where(tokens > 0, model.seconds(rows, sheet, found[0]), 0.0))


def _answer(name: str, group: str, sheet: Datasheet, gpus: int, size_bytes: Array) -> Array:
    kernel = kernels()[name]
    found = fitted(name).values(kernel, group, sheet)
    assert found is not None  # these groups are fitted
    values = {**found[0], "host_s": 1e-9} if "host_s" in found[0] else found[0]
    text = np.full(len(size_bytes), "half", dtype=object)
    rows = {
        "op_name": np.full(len(size_bytes), group.removeprefix("NCCL/"), dtype=object),
        "nccl_dtype": text,
        "kernel_source": np.full(len(size_bytes), group, dtype=object),
        "allreduce_dtype": text,
        "num_gpus": np.full(len(size_bytes), float(gpus)),
        "message_size": np.maximum(size_bytes / 2, 1.0),
    }
    return np.asarray(kernel.seconds(rows, replace(sheet), values))
