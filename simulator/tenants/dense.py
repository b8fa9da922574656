"""What steps cost outside the experts where they hold tokens of several instances.

Every instance has weights of its own there, so that its tokens have products, norms and attention of their own: each
instance in a step is as costly as a step of it alone. Only the gate may be fused (MoEsaic, SoCC 2024): the matrices of
all instances in the step side by side, one product and one choice of experts for all tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwmodels import Device, operators
from simulator.batching.dense_tables import DenseTables
from simulator.model import ModelSpec
from simulator.plan import Block
from simulator.runtime.costs import KEPT_BLOCKS, DenseCosts, Parts, to_ps_array

GATE = ("router", "top-k")  # names of the operations of a gate, see ModelSpec.layer_dense_work


class Gateless(DenseCosts):
    """Dense costs of one instance but those of its gates."""

    def tokenwise_s(self, layer: int, tokens: np.ndarray) -> np.ndarray:
        """As `DenseCosts.tokenwise_s`."""
        works = self._model.layer_dense_work(layer, tokens, tokens)
        return self._sum([work for work in works if work.kind != "attention" and work.name not in GATE])

    def gate_s(self, tokens: int, instances: int = 1) -> np.ndarray:
        """[3] seconds of the gates of so many instances in one launch, for all tokens of a step."""
        model, rows = self._model, np.array([tokens], dtype=np.float64)
        width = instances * model.experts
        product = operators.gemm(rows, width, model.hidden, model.default_bits, model.dtype, GATE[0])
        found: np.ndarray = self._sum([product, operators.route(rows, model.experts, model.top_k, model.dtype)])[0]
        return found


class InstanceCosts:
    """Dense costs of a worker whose steps hold tokens of several instances. `fused`: one gate for all of them."""

    def __init__(self, model: ModelSpec, device: Device, fused: bool) -> None:
        self.each = Gateless(model, device) if fused else DenseCosts.of(model, device)
        self._gates: dict[tuple[int, int], Parts] = {}
        # by the block's id; with the block, so that nothing else gets its id
        self._tables: dict[tuple[int, tuple[int, ...] | None], tuple[Block, list[tuple[Parts, ...]]]] = {}

    def table(self, block: Block, mine: list[int] | None = None) -> list[tuple[Parts, ...]]:
        """As `DenseCosts.table`."""
        key = id(block), None if mine is None else tuple(mine)
        if key not in self._tables:
            if len(self._tables) >= KEPT_BLOCKS:
                self._tables.clear()
            self._tables[key] = block, self._table(block, mine)
        return self._tables[key][1]

    def _table(self, block: Block, mine: list[int] | None) -> list[tuple[Parts, ...]]:
        count = len(block.instances)
        there = range(count) if mine is None else [place for place in mine if place < count]
        places: dict[int, list[int]] = {}
        for place in there:
            places.setdefault(block.instances[place], []).append(place)
        if not places:
            return self.each.table(block, [])
        tables = [self.each.table(_some(block, places[instance])) for instance in sorted(places)]
        rows = []
        for number, parts in enumerate(zip(*tables, strict=True)):
            tokens = sum(block.request_tokens[number][place] for place in there)
            gate = self.gate(tokens, len(places))
            columns = list(zip(*parts, strict=True))
            rows.append((*(_total([*layer, gate]) for layer in columns[:-1]), _total(columns[-1])))
        return rows

    def gate(self, tokens: int, instances: int) -> Parts:
        """Of a routed layer, if it is not in the costs of each instance; ps, and by what bounds it."""
        if not isinstance(self.each, Gateless):
            return 0, (0, 0, 0)
        key = tokens, instances
        if key not in self._gates:
            launch, memory, compute = to_ps_array(self.each.gate_s(tokens, instances)).tolist()
            self._gates[key] = launch + memory + compute, (launch, memory, compute)
        return self._gates[key]


class InstanceTables:
    """`DenseTables` of several instances, for steps in which all requests decode."""

    def __init__(self, costs: InstanceCosts, per_layer_ps: int) -> None:
        self._costs = costs
        self._each = DenseTables(costs.each)
        self._layers = len(costs.each.stretches) - 1
        self._added_ps = per_layer_ps * self._layers

    def decode(self, contexts: Sequence[int], steps: int, instances: Sequence[int]) -> np.ndarray:
        """As `DenseTables.decode`; the instance of each request."""
        total = np.zeros((steps, 4), dtype=np.int64)
        there = sorted(set(instances))
        for instance in there:
            own = [context for context, at in zip(contexts, instances, strict=True) if at == instance]
            total += self._each.decode(own, steps)
        gate_ps, parts = self._costs.gate(len(contexts), len(there))
        total += self._layers * np.array([*parts, gate_ps])
        total[:, 0] += self._added_ps
        total[:, 3] += self._added_ps
        return total


def _some(block: Block, places: list[int]) -> Block:
    """The same steps with some of their requests."""

    def of(rows: list[list[int]]) -> list[list[int]]:
        return [[row[place] for place in places] for row in rows]

    return Block(
        prefill=block.prefill,
        request_tokens=of(block.request_tokens),
        kv_tokens=of(block.kv_tokens),
        mixed=block.mixed,
        samples=None if block.samples is None else of(block.samples),
    )


def _total(parts: Sequence[Parts]) -> Parts:
    split = [sum(column) for column in zip(*(by_bound for _, by_bound in parts), strict=True)]
    return sum(split), (split[0], split[1], split[2])
