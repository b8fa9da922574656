"""`moesim show`: what a model, platform, trace, system, experiment, policy or datasheet is."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from experiments.catalogue import DATASHEET, capacity, describe, find, load, sheet_line
from experiments.compose import chosen, is_path, own_file
from experiments.policy import policy_class
from experiments.table import seconds, size

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def main(options: argparse.Namespace) -> int:
    """Print everything of that name."""
    import sys

    from rich.console import Console

    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 120)
    for group, name in find(options.name):
        is_trace_file = group == "trace" and not name.endswith((".yaml", ".yml")) and is_path(name)
        node = (
            OmegaConf.create({"name": name, "path": own_file(Path(name).expanduser())})
            if is_trace_file
            else load(group, name)
        )
        console.print(f"{group} {name}", style="bold")
        if group == "model":
            _model(node, name, console)
        elif group == "platform":
            _platform(node, name, console)
        elif group == "trace":
            _trace(node, console)
        elif group.startswith("policy/"):
            _policy(group, node, console)
        elif group == DATASHEET:
            _datasheet(node, name, console)
        else:
            _choices(group, name, node, console)
        console.print()
    return 0


def _table(columns: list[str], rows: list[list[Any]], right: int = 1) -> RenderableType:
    """A plain table; the first `right` columns are left-aligned, numbers follow on the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="underline")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number >= right else "left", overflow="fold")
    for row in rows:
        table.add_row(*[str(cell) for cell in row])
    return table


def _model(node: DictConfig, name: str, console: Console) -> None:
    from simulator.model import ModelSpec

    model = ModelSpec.from_mapping(node, f"model {name}")
    console.print(describe("model", node))
    rows = [
        [part.replace("_", " "), f"{params:,}", f"{stored / 2**30:.3f}"]
        for part, (params, stored) in model.parts().items()
        if params
    ]
    total = model.dense_bytes + model.parts()["routed_experts"][1]
    rows.append(["total", f"{model.total_params:,}", f"{total / 2**30:.3f}"])
    console.print(_table(["part", "parameters", "GiB"], rows))
    console.print(f"one expert {size(model.expert_bytes)}; KV cache of 4096 tokens {size(model.kv_bytes(4096))}")
    console.print(f"source: {model.source}")


def _platform(node: DictConfig, name: str, console: Console) -> None:
    from hwmodels import Platform
    from hwmodels.energy import told as energy_told

    platform = Platform.from_mapping(node, f"platform {name}")
    console.print(platform.description)
    if platform.remark:
        console.print(f"note: {platform.remark}")
    roles = f"workers {', '.join(platform.workers)}; experts start in {platform.home}"
    near = f"; {', '.join(platform.units)} may run experts near memory" if platform.units else ""
    console.print(roles + (f"; {platform.cpu} may run experts" if platform.cpu else "") + near)
    rows = []
    for device in platform.devices.values():
        peaks = device.peak_flop_per_s
        peak = next((peaks[dtype] for dtype in ("bf16", "fp16", "fp32") if dtype in peaks), 0.0)
        rows.append(
            [
                device.name,
                device.kind,
                size(device.memory_capacity_bytes) if device.memory_capacity_bytes else "-",
                f"{device.memory_read_bytes_per_s / 1e9:.1f}" if device.memory_read_bytes_per_s else "-",
                f"{peak / 1e12:.3g}" if peak else "-",
            ]
        )
    console.print(_table(["device", "kind", "memory", "GB/s", "TFLOP/s"], rows, right=2))
    links = [
        [
            link.name,
            link.kind,
            f"{link.a} - {link.b}",
            f"{link.bandwidth_bytes_per_s / 1e9:.1f}",
            f"{link.effective_bytes_per_s / 1e9:.1f}",
            seconds(link.latency_s) if link.latency_s else "-",
        ]
        for link in platform.links
    ]
    console.print(_table(["link", "kind", "between", "GB/s", "achieved", "latency"], links, right=3))
    for device in platform.devices.values():
        if device.kernels is not None:
            origin = device.kernels.choice("gemm", "bfloat16").origin
            console.print(f"kernels of {device.name}: {device.engine}'s, datasheet {device.datasheet}; GEMMs {origin}")
    parts: list[Any] = [*platform.devices.values(), *platform.links]
    prices = [f"{part.name} {told}" for part in parts if (told := energy_told(part))]
    console.print(f"energy: {'; '.join(prices)} (docs/energy.md)")
    for part in parts:
        if part.source:
            others = part.origin.get("others", "assumed")
            told = "; ".join([others, *(f"{key} {what}" for key, what in part.origin.items() if key != "others")])
            console.print(f"source of {part.name} ({told}): {part.source}")


def _datasheet(node: DictConfig, name: str, console: Console) -> None:
    from hwmodels.datasheet import Datasheet
    from hwmodels.kernels import kernels
    from hwmodels.predict import fitted

    sheet = Datasheet.from_mapping(node, f"datasheet {name}")
    console.print(sheet_line(sheet))
    peaks = [[f"peak in {dtype}", f"{peak / 1e12:g}", "TFLOP/s"] for dtype, peak in sheet.peak_flop_per_s.items()]
    rows = [
        *peaks,
        ["memory", *capacity(sheet).split()],
        ["memory reads", f"{sheet.memory_read_bytes_per_s / 1e9:g}", "GB/s"],
        ["multiprocessors", f"{sheet.sms}", ""],
        ["clock", f"{sheet.clock_hz / 1e6:g}", "MHz"],
        ["last-level cache", f"{sheet.l2_bytes / 2**20:g}", "MiB"],
        ["to GPUs of its node, each way", f"{sheet.peer_bytes_per_s / 1e9:g}", "GB/s"],
        ["to other nodes, each way", f"{sheet.node_bytes_per_s / 1e9:g}", "GB/s"],
    ]
    console.print(_table(["what", "how much", ""], rows))
    measured = [k for k in kernels() if any(sheet.name in group["devices"] for group in fitted(k).groups.values())]
    told = ", ".join(measured) if measured else "none; they follow from the GPUs that were (docs/kernels.md)"
    console.print(f"kernels measured on it: {told}")
    console.print(f"source: {sheet.source}")


def _trace(node: DictConfig, console: Console) -> None:
    import numpy as np

    from experiments.run import trace_path
    from traces import open_trace

    trace = open_trace(trace_path(node))
    meta = trace.meta
    console.print(describe("trace", node))
    for key in ("dataset", "licence", "source", "notes", "digest"):
        if getattr(meta, key):
            console.print(f"{key}: {getattr(meta, key)}")
    console.print(f"{len(meta.layers)} routed layers of {meta.num_experts} experts, top-{meta.top_k}")
    recorded = {
        "gate weights": meta.has_weights,
        "router probabilities": meta.has_probabilities,
        f"guesses {meta.guess_distances} layers ahead": bool(meta.guess_distances),
        "norms of hidden states": meta.has_norms,
        f"embeddings of requests ({meta.embedding_width} numbers)": bool(meta.embedding_width),
        "expert sizes": meta.expert_bytes is not None,
    }
    console.print(f"recorded: {', '.join(['experts', *(what for what, has in recorded.items() if has)])}")
    rows = []
    for what in ("tokens", "first_position", "prefill_tokens", "decode_tokens", "unknown_tokens"):
        values = np.array([getattr(request, what) for request in trace.requests])
        rows.append([what.replace("_", " "), values.sum(), values.min(), f"{np.median(values):.0f}", values.max()])
    console.print(_table([f"of {len(trace)} requests", "sum", "least", "median", "most"], rows))
    if meta.has_norms or meta.embedding_width:
        console.print(f"norms by layer, requests alike by embedding and by routing: moesim trace stats {node.path}")


def _policy(group: str, node: DictConfig, console: Console) -> None:
    kind = policy_class(node.get("_target_"), group.removeprefix("policy/"))
    console.print(inspect.getdoc(kind) or "")
    for key, value in node.items():
        if key != "_target_":
            console.print(f"{group.replace('/', '.')}.{key!s}={'null' if value is None else value}")
    console.print(f"{kind.__module__}.{kind.__name__}")


def _choices(group: str, name: str, node: DictConfig, console: Console) -> None:
    console.print(describe(group, node))
    if group in ("system", "experiment"):
        made = chosen([f"{group}={name}"])
        wanted = [key for key in made if key.startswith("policy/") or group == "experiment"]
        console.print(_table(["group", "choice"], [[key, made[key]] for key in wanted if key != group], right=2))
    own = OmegaConf.masked_copy(node, [key for key in node if key not in ("defaults", "description", group)])  # type: ignore[misc]
    if own:
        console.print(OmegaConf.to_yaml(own).rstrip())
