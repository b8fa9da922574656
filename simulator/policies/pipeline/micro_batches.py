from simulator.policies.pipeline.base import PipelinePolicy
from simulator.policies.pipeline.stream_graph import Kind, StreamGraph, StreamTask

ATTENTION = ("cpu", "gpu")


class MicroBatches(PipelinePolicy):
    """Layers stream through the GPU while micro-batches of a large batch run (FlexGen, MoE-Lightning).

    micro_batch       requests in each; null: planned (`simulator.streaming.planner`)
    attention         of decoded tokens: on the host CPU beside the KV cache, or on the GPU, to which that is copied
    look_ahead        micro-batches that are prepared for the CPU's attention ahead of the running one
    paged             a layer's weights come in as many pages as there are micro-batches, one with each; else in
                      one copy, which all others wait for
    staged            weights pass through page-locked buffers that host threads fill
    pageable_kv       the KV cache is copied from memory that is not page-locked
    resident_weights  share of every layer that stays on the GPU; null: as much as fits
    """

    def __init__(
        self,
        micro_batch: int | None = None,
        attention: str = "cpu",
        look_ahead: int = 2,
        paged: bool = True,
        staged: bool = True,
        pageable_kv: bool = False,
        resident_weights: float | None = None,
    ) -> None:
        if micro_batch is not None and micro_batch < 1:
            raise ValueError(
                f"policy.pipeline.micro_batch is {micro_batch}; expected at least 1, or null for a planned one."
            )
        if attention not in ATTENTION:
            raise ValueError(f"policy.pipeline.attention is '{attention}'; expected one of {', '.join(ATTENTION)}.")
        if look_ahead < 0:
            raise ValueError(f"policy.pipeline.look_ahead is {look_ahead}; expected at least 0.")
        if resident_weights is not None and not 0 <= resident_weights <= 1:
            raise ValueError(
                f"policy.pipeline.resident_weights is {resident_weights}; expected a share from 0 to 1, or null."
            )
        self.micro_batch = micro_batch
        self.on_cpu = attention == "cpu"
        self.look_ahead = look_ahead
        self.paged = paged
        self.staged = staged
        self.pageable_kv = pageable_kv
        self.resident_weights = resident_weights

    def stream_tasks(
        self, layers: int, parts: int, prefill: bool, carried: int, more: bool, dense_share: float
    ) -> list[StreamTask]:
        """The tasks of a step of `parts` micro-batches; `more`: another step follows. See `StreamGraph`."""
        graph = StreamGraph(layers, carried, self.staged, dense_share)
        if not carried:
            for part in range(self.pages(parts)):
                graph.page(0, part, self.pages(parts))
        last = layers - 1 + more  # layers from 1 up to this one are asked for
        if prefill:
            self._prompts(graph, parts, last)
        elif self.on_cpu:
            self._on_cpu(graph, parts, last)
        else:
            self._on_gpu(graph, parts, last)
        return graph.tasks

    def pages(self, parts: int) -> int:
        """In how many copies a layer's weights come."""
        return parts if self.paged else 1

    def _next_page(self, graph: StreamGraph, layer: int, part: int, parts: int, last: int) -> None:
        if layer < last and part < self.pages(parts):
            graph.page(layer + 1, part, self.pages(parts))

    def _prompts(self, graph: StreamGraph, parts: int, last: int) -> None:
        """Everything on the GPU; keys and values go to the host."""
        for layer in range(graph.layers):
            for part in range(parts):
                self._next_page(graph, layer, part, parts, last)
                whole = graph.add(Kind.WHOLE, layer, part, parts, graph.all_of(layer))
                graph.add(Kind.KEYS_OUT, layer, part, parts, whole)

    def _on_gpu(self, graph: StreamGraph, parts: int, last: int) -> None:
        """The KV cache of the next micro-batch comes while one runs; there is room for these two."""
        order = [(layer, part) for layer in range(graph.layers) for part in range(parts)]
        coming = graph.add(Kind.KEYS_IN, 0, 0, parts)
        before: tuple[int, ...] = ()
        for number, (layer, part) in enumerate(order):
            self._next_page(graph, layer, part, parts, last)
            here = coming
            if number + 1 < len(order):
                coming = graph.add(Kind.KEYS_IN, *order[number + 1], parts, *before)
            whole = graph.add(Kind.WHOLE, layer, part, parts, here, graph.all_of(layer))
            graph.add(Kind.KEYS_OUT, layer, part, parts, whole)
            before = (whole,)

    def _on_cpu(self, graph: StreamGraph, parts: int, last: int) -> None:
        """CGOPipe (arXiv 2411.11217, algorithm 1); without looking ahead, FlexGen with its attention on the CPU."""
        order = [(layer, part) for layer in range(graph.layers) for part in range(parts)]
        ahead = min(self.look_ahead, parts)
        attended: dict[tuple[int, int], int] = {}
        backs: dict[int, int] = {}  # micro-batch -> its last task in the layer before

        def front(layer: int, part: int) -> None:
            after = [graph.dense_of(layer), *([backs[part]] if layer else [])]
            place = graph.add(Kind.FRONT, layer, part, parts, *after)
            place = graph.add(Kind.QKV, layer, part, parts, place)
            attended[layer, part] = graph.add(Kind.ATTENTION, layer, part, parts, place)

        for place in order[:ahead]:
            front(*place)
        for number, (layer, part) in enumerate(order):
            if not ahead:
                self._next_page(graph, layer, part, parts, last)
                front(layer, part)
            hidden = graph.add(Kind.HIDDEN, layer, part, parts, attended.pop((layer, part)))
            if ahead:
                self._next_page(graph, layer, part, parts, last)
            backs[part] = graph.add(Kind.BACK, layer, part, parts, hidden, graph.all_of(layer))
            if ahead and number + ahead < len(order):
                front(*order[number + ahead])
