"""Dynamic gating (arXiv 2303.06182, section on dynamic gating): rows are sorted by expert and sent in exact sizes."""

from __future__ import annotations

import numpy as np

from simulator.dispatch.base import Dispatch
from simulator.dispatch.work import INDEX, dynamic_bytes, scatter_works, sort_work
from simulator.engine import Transfer
from simulator.plan import Step
from simulator.policies.pipeline.base import Op
from simulator.runtime.exchange import Exchange


class DynamicDispatch(Dispatch):
    """A row for every choice of a token."""

    def works(self, tokens):
        """See `Dispatch.works`."""
        model = self.model
        rows = model.top_k * tokens
        into, back = scatter_works(tokens, rows, model.top_k, model.hidden, model.dtype)
        return (sort_work(tokens, model.experts, model.top_k, model.dtype), into), (back,)

    def activation_bytes(self, tokens):
        """See `Dispatch.activation_bytes`."""
        model = self.model
        local = -(-model.experts // self.workers)
        return dynamic_bytes(tokens, model.top_k, model.hidden, model.expert_intermediate, local)

    def exchange(self, *parts):
        """See `Dispatch.exchange`."""
        return ExactExchange(*parts)

    def remark(self):
        """See `Dispatch.remark`."""
        return "dynamic gating: a row for every choice, in exact sizes, none padded or dropped"


class ExactExchange(Exchange):
    """Every choice of a token is a row of its own, also if two of its experts lie on one worker; before the rows go
    their counts, 8 bytes for each expert of the receiver."""

    def message_bytes(self, number: int, step: Step) -> list[list[list[int]]]:
        """Bytes of rows [layer][src][dst] from worker to worker in step `number`, own excluded."""
        sizes = self._message_bytes.get(number)
        if sizes is None:
            layers, workers = len(self._owners), self._workers
            pairs = np.zeros((layers, workers, workers), dtype=np.int64)
            index = np.arange(layers)[None, :, None]
            for slot, rows in zip(step.block.slots, step.rows, strict=True):
                owners = np.where(rows >= 0, self._owners[index, np.maximum(rows, 0)], -1)
                for target in range(workers):
                    pairs[:, slot % workers, target] += (owners == target).sum(axis=(0, 2))
            pairs[:, range(workers), range(workers)] = 0
            sizes = self._message_bytes[number] = (pairs * self._hidden_bytes).tolist()
        return sizes

    def send(self, worker, number, task, step, layer, t, op):
        """As `Exchange.send`; ANNOUNCE sends counts."""
        if op is not Op.ANNOUNCE:
            yield from super().send(worker, number, task, step, layer, t, op)
            return
        if worker.must_sync(t):
            yield from worker.sync(t)
        owned = np.bincount(self._owners[layer], minlength=self._workers)
        messages = {}
        for target in range(self._workers):
            if target != worker.rank and owned[target]:
                messages[target] = Transfer(-1, INDEX * int(owned[target]), True)
                self._fabric.submit(self._lanes[worker.rank, target], messages[target], t)
        if worker.recording is not None:
            worker.recording.asked(worker.name, messages.values(), t)
        self._post(worker, (number, task, worker.rank), t, messages)
