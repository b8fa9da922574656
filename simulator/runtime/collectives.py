"""Sums over the GPUs of a layout, as durations of fitted models (`calibrated`) or as transfers on the links (`links`).

A ring all-reduce of S bytes among g GPUs has 2 (g − 1) steps, in each of which every GPU sends S / g bytes to the next
(Patarasuk and Yuan, JPDC 69, 2009):  T = 2 (g − 1) · α + 2 (g − 1) / g · S / β.  On the links it is one transfer of
2 (g − 1) / g · S bytes from each GPU to the next one; a launch, and the latency α of all steps but the one that the
transfer has itself, go before it. An all-gather has half the steps and sends half as much.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import numpy as np
from simpy.events import Event

from hwmodels.collectives import all_reduce_s, exchange_s, gather_s
from hwmodels.datasheet import find_datasheet
from hwmodels.device import Device
from hwmodels.operators import ACTIVATION_BYTES, Array
from simulator.engine import Lane, Transfer, to_ps
from simulator.layout import Layout
from simulator.model import ModelError, ModelSpec
from simulator.plan import Block, Step
from simulator.policies.pipeline.base import Op
from simulator.runtime.costs import Stretch, rows_of_requests, to_ps_array

if TYPE_CHECKING:
    from simulator.runtime.exchange import Exchange
    from simulator.runtime.worker import Worker

CATEGORY, MESSAGES = "all_reduce", "all_to_all"  # what the time went to


class CollectiveTimes:
    """Fitted durations of the collectives of a layout on GPUs of one kind, in ps; each size is asked for once.

    reductions: for each routed layer, and for what follows the last, how many sums over the attention group precede
    its experts: one for each attention and one for each dense block; where groups exchange tokens with experts, shared
    experts and a dense branch are summed apart too.
    """

    def __init__(self, layout: Layout, model: ModelSpec, stretches: list[Stretch], device: Device) -> None:
        """Raises ModelError if the device states no datasheet, with which the fitted models scale."""
        if not device.datasheet:
            raise ModelError(
                f"settings.collectives=calibrated asks for the datasheet of '{device.name}', which names none; expected"
                " settings.collectives=links, or the field datasheet in the platform."
            )
        self.layout, self._model = layout, model
        self.reductions = reductions(layout, model, stretches)
        self._sheet = find_datasheet(device.datasheet, f"device '{device.name}'")
        self._engine = device.engine or "VLLM"
        self._kept: dict[tuple[Any, ...], int] = {}

    def reduce_ps(self, tokens: int) -> int:
        """One sum of the activations of so many tokens over an attention group."""
        return self._all_reduce_ps(self.layout.tp, tokens)

    def join_ps(self, tokens: int) -> int:
        """The same over all GPUs of a stage."""
        return self._all_reduce_ps(self.layout.gpus, tokens)

    def gather_ps(self, sampled: int) -> int:
        """Collecting the logits of so many tokens from an attention group."""
        tp, size = self.layout.tp, sampled * self._model.vocab * ACTIVATION_BYTES
        return self._ps(("logits",), tp > 1, size, lambda size: gather_s(self._sheet, tp, size))

    def exchange_ps(self, size_bytes: int, phase: str, decode: bool) -> int:
        """Dispatch or combine in which the busiest GPU sends or receives so many bytes."""
        return self._ps((phase, decode), True, size_bytes, lambda sizes: self._exchange_s(sizes, phase, decode))

    def exchanges_ps(self, sizes_bytes: np.ndarray, phase: str, decode: bool) -> np.ndarray:
        """As `exchange_ps` for many sizes, of any shape."""
        sizes, places = np.unique(sizes_bytes, return_inverse=True)
        new = [size for size in sizes.tolist() if size and (phase, decode, size) not in self._kept]
        found = to_ps_array(self._exchange_s(np.array(new, dtype=np.float64), phase, decode)) if new else ()
        self._kept.update({(phase, decode, size): int(ps) for size, ps in zip(new, found, strict=True)})
        each = [self.exchange_ps(size, phase, decode) for size in sizes.tolist()]
        return np.array(each, dtype=np.int64)[places].reshape(sizes_bytes.shape)

    def _exchange_s(self, sizes_bytes: Array, phase: str, decode: bool) -> Array:
        model = self._model
        shape = (model.hidden, model.top_k, model.experts)
        return exchange_s(self._sheet, self._engine, self.layout.gpus, shape, sizes_bytes, phase, decode)

    def step_ps(self, tokens: int, sampled: int) -> int:
        """All sums and the logits of a step of one attention group of so many tokens."""
        layers = len(self.reductions) - 1
        joins = layers * self.join_ps(tokens) if self.layout.attention_dp == 1 else 0
        return joins + sum(self.reductions) * self.reduce_ps(tokens) + self.gather_ps(sampled)

    def _all_reduce_ps(self, gpus: int, tokens: int) -> int:
        size = tokens * self._model.hidden * ACTIVATION_BYTES
        return self._ps((gpus,), gpus > 1, size, lambda size: all_reduce_s(self._sheet, self._engine, gpus, size))

    def _ps(self, what: tuple[Any, ...], several: bool, size_bytes: int, seconds: Callable[[Array], Array]) -> int:
        if not several or not size_bytes:
            return 0
        key = (*what, size_bytes)
        if key not in self._kept:
            self._kept[key] = to_ps(float(seconds(np.array([float(size_bytes)]))[0]))
        return self._kept[key]


def reductions(layout: Layout, model: ModelSpec, stretches: list[Stretch]) -> list[int]:
    """Sums over an attention group in each stretch of layers, see `CollectiveTimes`."""
    beside = layout.attention_dp > 1 and (model.shared_intermediate > 0 or model.dense_branch)
    routed = set(model.moe_layers)
    found, layer = [], 0
    for _, _, layers in stretches:
        count = 0
        for number in range(layer, layer + len(layers)):
            count += 1 + (0 < model.encoder_layers <= number)
            count += beside if number in routed else 1
        found.append(count)
        layer += len(layers)
    return found


class Collectives:
    """The collectives of one worker. `times`: fitted durations, None: on the links; `exchanged`: of messages to and
    from experts too. `ops`: which tasks these are. `lane` leads to the next GPU of the attention group; `launch_ps`
    starts a collective there.
    """

    def __init__(
        self,
        layout: Layout,
        model: ModelSpec,
        stretches: list[Stretch],
        times: CollectiveTimes | None,
        lane: Lane | None,
        launch_ps: int,
        exchange: Exchange | None,
        exchanged: bool,
    ) -> None:
        self._layout, self._model, self._times, self._exchange = layout, model, times, exchange
        self._reductions = reductions(layout, model, stretches)
        self._lane, self._launch_ps = lane, launch_ps
        self.ops = {Op.REDUCE, Op.JOIN, *((Op.DISPATCH, Op.COMBINE) if exchanged else ())}
        self._tokens: list[int] = []
        self._sampled: list[int] = []

    def load(self, block: Block, mine: list[int] | None) -> None:
        """A block of steps begins, of whose requests these are the worker's (None: all)."""
        self._tokens = [sum(rows_of_requests(row, mine)) for row in block.request_tokens]
        wanted = block.samples or [[1] * len(row) for row in block.kv_tokens]
        self._sampled = [sum(rows_of_requests(row, mine)) for row in wanted]

    def run(
        self, worker: Worker, number: int, task: int, op: Op, step: Step, layer: int, t: int
    ) -> Generator[Event, Any, int]:
        """Run one of `ops` and tell the others: a REDUCE, a JOIN, or a calibrated DISPATCH or COMBINE."""
        begin, exchange = t, self._exchange
        if self._times is not None:
            t += self._lasts_ps(number, op, step, layer)
            if t > begin:
                worker.path.add(t, MESSAGES if op in (Op.DISPATCH, Op.COMBINE) else CATEGORY)
                worker.busy_ps += t - begin
        elif size_steps := self.sent(op, layer, self._tokens[step.row], self._sampled[step.row]):
            t = yield from self._send(worker, *size_steps, t)
        if worker.recording is not None and t > begin:
            worker.recording.ran(worker.name, f"{op.name.lower()} {layer}", (begin, t), "collective", layer)
        if exchange is not None:
            yield from exchange.post(worker, (number, task, worker.rank), t)
        return t

    def _lasts_ps(self, number: int, op: Op, step: Step, layer: int) -> int:
        times = self._times
        assert times is not None
        if op is Op.DISPATCH or op is Op.COMBINE:
            assert self._exchange is not None
            size = self._exchange.busiest_bytes(number, step)[layer]
            return times.exchange_ps(size, op.name.lower(), not step.prefill)
        tokens = self._tokens[step.row]
        if op is Op.JOIN:
            return times.join_ps(tokens)
        last = layer == len(self._reductions) - 1
        found = self._reductions[layer] * times.reduce_ps(tokens) if self._reductions[layer] else 0
        return found + (times.gather_ps(self._sampled[step.row]) if last else 0)

    @property
    def calibrated(self) -> bool:
        """Whether they take fitted times, and no transfers."""
        return self._times is not None

    def sent(self, op: Op, layer: int, tokens: int, sampled: int) -> tuple[int, int, int] | None:
        """What a GPU sends in a ring for so many tokens, in how many steps, of how many collectives; None: nothing."""
        if op not in (Op.REDUCE, Op.JOIN):
            return None
        gpus = self._layout.tp if op is Op.REDUCE else self._layout.gpus
        times = self._reductions[layer] if op is Op.REDUCE else 1
        summed = tokens * self._model.hidden * ACTIVATION_BYTES * times
        steps = 2 * (gpus - 1) * times
        sent = -(-2 * (gpus - 1) * summed // gpus)
        if op is Op.REDUCE and layer == len(self._reductions) - 1:
            sent += -(-(gpus - 1) * sampled * self._model.vocab * ACTIVATION_BYTES // gpus)
            steps, times = steps + gpus - 1, times + 1
        return (sent, steps, times) if sent else None

    def _send(self, worker: Worker, size_bytes: int, steps: int, launches: int, t: int) -> Generator[Event, Any, int]:
        lane = self._lane
        assert lane is not None
        t += launches * self._launch_ps + (steps - 1) * lane.latency_ps
        worker.path.add(t, CATEGORY)
        if worker.must_sync(t):
            yield from worker.sync(t)
        message = Transfer(-1, size_bytes, True)
        worker.fabric.submit(lane, message, t)
        if worker.recording is not None:
            worker.recording.asked(worker.name, [message], t)
        landed = yield from worker.landed(message)
        worker.path.waited_for(message)
        return landed
