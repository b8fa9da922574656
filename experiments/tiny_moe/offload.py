"""`python -m experiments.tiny_moe.offload`: the small model with its experts in a file, beside a replay of its trace.

A trace is captured first; then the model generates the same again with room for a few experts of each layer, the
others being read from the file when they are asked for. Every access must be the hit or miss that the replay of the
trace predicted. The loop shares no code with the simulator.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.tiny_moe.ship import CHECKPOINT
from simulator.plan import Plan, Workload
from simulator.policies.cache.lru import Lru
from simulator.replay import replay
from traces import Trace
from traces.capture.prompts import Prompt, read_prompts
from traces.capture.run import Settings, Source, capture_trace, load
from traces.capture.sequences import encode, generate

CAPACITIES = (4, 8, 12, 16)  # experts of each layer
SETTINGS = Settings(prompt_tokens=32, new_tokens=32, batch=1)


@dataclass(frozen=True)
class Row:
    """What came of a cache size: accesses, hits of the loop and of the replay, whether every access agreed."""

    capacity: int
    accesses: int
    hits: int
    predicted_hits: int
    bytes_read: int
    same: bool


class Store:
    """Experts of one layer in a file, at most `capacity` of them in memory, the longest unused leaving first.

    The experts that a forward pass asks for are all looked up and read before others leave, so that a pass that asks
    for more than fit holds them all while it runs.
    """

    def __init__(self, file: int, offset: int, shapes: Sequence[Any], dtype: Any, capacity: int) -> None:
        self._file, self._offset, self._shapes, self._dtype = file, offset, shapes, dtype
        self._bytes = sum(shape.numel() for shape in shapes) * dtype.itemsize
        self._capacity = capacity
        self._held: OrderedDict[int, list[Any]] = OrderedDict()
        self.bytes_read = 0
        self.log: list[tuple[int, bool]] = []  # expert, hit

    def ask(self, experts: Sequence[int]) -> dict[int, list[Any]]:
        """The weight matrices of distinct experts, in the order in which they were last asked for."""
        self.log += [(expert, expert in self._held) for expert in experts]
        for expert in experts:
            if expert not in self._held:
                self._held[expert] = self._read(expert)
            self._held.move_to_end(expert)
        got = {expert: self._held[expert] for expert in experts}
        while len(self._held) > max(self._capacity, len(experts)):
            self._held.popitem(last=False)
        return got

    def _read(self, expert: int) -> list[Any]:
        import torch

        raw = os.pread(self._file, self._bytes, self._offset + expert * self._bytes)
        self.bytes_read += len(raw)
        flat = torch.frombuffer(bytearray(raw), dtype=self._dtype)
        parts = flat.split([shape.numel() for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]


def offload(model: Any, file: Path, capacity: int) -> tuple[list[Store], list[tuple[int, int, bool]]]:
    """Move the experts of an OLMoE model to `file` and let it read them from there.

    Returns the stores of the layers, and a list to which each access adds (layer, expert, hit).
    """
    import torch

    layers = model.model.layers
    with file.open("wb") as out:
        for layer in layers:
            experts = layer.mlp.experts
            for up, down in zip(experts.gate_up_proj.data, experts.down_proj.data, strict=True):
                for matrix in (up, down):
                    out.write(matrix.contiguous().view(torch.uint8).numpy().tobytes())
    handle, offset = os.open(file, os.O_RDONLY), 0
    stores: list[Store] = []
    accesses: list[tuple[int, int, bool]] = []
    for number, layer in enumerate(layers):
        experts = layer.mlp.experts
        matrices = (experts.gate_up_proj, experts.down_proj)
        shapes = [matrix[0].shape for matrix in matrices]
        stores.append(Store(handle, offset, shapes, matrices[0].dtype, capacity))
        offset += sum(matrix.numel() * matrix.element_size() for matrix in matrices)
        activation = experts.act_fn
        layer.mlp.experts = torch.nn.Identity()
        layer.mlp.experts.forward = _runner(number, stores[-1], accesses, activation)
    return stores, accesses


def _runner(layer: int, store: Store, accesses: list[tuple[int, int, bool]], activation: Any) -> Any:
    import torch

    def forward(hidden: Any, ids: Any, weights: Any) -> Any:
        asked = list(dict.fromkeys(reversed(ids.flatten().tolist())))[::-1]  # by last occurrence
        before = len(store.log)
        matrices = store.ask(asked)
        accesses.extend((layer, expert, hit) for expert, hit in store.log[before:])
        out = torch.zeros_like(hidden)
        for expert in sorted(asked):
            slot, token = torch.where(ids.T.eq(expert))
            up, down = matrices[expert]
            gate, wide = torch.nn.functional.linear(hidden[token], up).chunk(2, dim=-1)
            state = torch.nn.functional.linear(activation(gate) * wide, down)
            out.index_add_(0, token, state * weights[token, slot, None])
        return out

    return forward


def predicted(trace: Trace, capacity: int) -> list[tuple[int, int, bool]]:
    """(layer, expert, hit) of every access by a replay of the trace, LRU with `capacity` experts of each layer."""
    sizes = trace.meta.expert_bytes
    assert sizes is not None
    count, top_k = trace.meta.num_experts, trace.meta.top_k
    budget = capacity * sum(sizes)
    result = replay(Plan(trace, Workload()), sizes, count, top_k, Lru, budget, scope="layer", rows=True)
    return [(layer, blob % count, bool(hit)) for group in result.rows for _, layer, blob, hit in group.tolist()]


def prove(checkpoint: Path, prompts: Sequence[Prompt], folder: Path, capacities: Sequence[int]) -> list[Row]:
    """Capture a trace with the whole model in memory, then run the loop with each capacity, and compare."""
    model, tokenizer = load(str(checkpoint))
    model.set_experts_implementation("eager")  # the plain sum over experts, as in the loop
    trace = capture_trace(model, tokenizer, prompts, folder / "trace.parquet", SETTINGS, Source(model="tiny_moe"))
    rows = []
    for capacity in capacities:
        model, tokenizer = load(str(checkpoint))
        stores, accesses = offload(model, folder / "experts.bin", capacity)
        for number, prompt in enumerate(prompts):
            ids = encode(tokenizer, prompt.text, SETTINGS.prompt_tokens)
            generate(model, tokenizer, [ids], SETTINGS, number)
        expected = predicted(trace, capacity)
        hits, right = sum(hit for _, _, hit in accesses), sum(hit for _, _, hit in expected)
        read = sum(store.bytes_read for store in stores)
        rows.append(Row(capacity, len(accesses), hits, right, read, accesses == expected))
    return rows


def main() -> int:
    """Print a row for each capacity; 1 if an access differed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tiny_moe.offload", description=__doc__)
    parser.add_argument("prompts", type=Path, help='JSON lines of {"prompt": …}')
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="(default: the shipped one)")
    parser.add_argument("--requests", type=int, default=10, metavar="N", help="of the prompts (default: 10)")
    options = parser.parse_args()
    try:
        prompts = read_prompts(options.prompts)[: options.requests]
        with tempfile.TemporaryDirectory() as folder:
            rows = prove(options.checkpoint, prompts, Path(folder), CAPACITIES)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("experts held a layer  accesses  hits  predicted hits  MB read  every access")
    for row in rows:
        same = "agrees" if row.same else "DIFFERS"
        print(
            f"{row.capacity:20}  {row.accesses:8}  {row.hits:4}  {row.predicted_hits:14}  {row.bytes_read / 1e6:7.2f}"
            f"  {same}"
        )
    return 0 if all(row.same for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
