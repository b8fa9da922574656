from simulator.dispatch import DynamicDispatch
from simulator.policies.pipeline.base import Op, PipelinePolicy, Task


class DynamicGating(PipelinePolicy):
    """Rows are sorted by expert and sent in exact sizes, which workers tell each other first; nothing is padded.

    MoE-Deploy (arXiv 2303.06182). `size_exchange`: the all-to-all of sizes; `sequential`: experts run one after the
    other.
    """

    def __init__(self, size_exchange: bool = True, sequential: bool = True) -> None:
        self._size_exchange, self._sequential = size_exchange, sequential

    def tasks(self, layers, workers):
        tasks: list[Task] = []

        def add(op, layer, after=()):
            group = [Task(len(tasks) + worker, op, layer, worker, after) for worker in range(workers)]
            tasks.extend(group)
            return tuple(task.id for task in group) if workers > 1 else ()

        arrived = ()
        for layer in range(layers):
            add(Op.DENSE, layer, arrived)
            if workers > 1:
                sizes = add(Op.ANNOUNCE, layer) if self._size_exchange else ()
                add(Op.EXPERTS, layer, add(Op.DISPATCH, layer, sizes))
                arrived = add(Op.COMBINE, layer)
            else:
                add(Op.EXPERTS, layer)
        add(Op.TAIL, layers, arrived)
        return tasks

    def dispatch(self, model, workers):
        return DynamicDispatch(model, workers, self._sequential)
