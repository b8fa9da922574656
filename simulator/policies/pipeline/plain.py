from simulator.policies.pipeline.base import Op, PipelinePolicy, Task


class PlainPipeline(PipelinePolicy):
    """Layer after layer; with several workers, all-to-all before and after the experts."""

    announces = False  # whether workers first tell each other how much they will send

    def tasks(self, layers, workers):
        tasks: list[Task] = []

        def add(op, layer, after=()):
            group = [Task(len(tasks) + w, op, layer, w, after) for w in range(workers)]
            tasks.extend(group)
            return tuple(task.id for task in group) if workers > 1 else ()

        arrived = ()
        for layer in range(layers):
            add(Op.DENSE, layer, arrived)
            if workers > 1:
                sizes = add(Op.ANNOUNCE, layer) if self.announces else ()
                add(Op.EXPERTS, layer, add(Op.DISPATCH, layer, sizes))
                arrived = add(Op.COMBINE, layer)
            else:
                add(Op.EXPERTS, layer)
        add(Op.TAIL, layers, arrived)
        return tasks
