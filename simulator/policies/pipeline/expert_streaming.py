from simulator.policies.pipeline.plain import PlainPipeline

LEAST_SLICE_BYTES = 256  # each is followed through every worker: finer ones only take time


class ExpertStreaming(PlainPipeline):
    """Tokens stay; slices of all experts stream from the memories of the workers and circulate over all (FSE-DP).

    Fully sharded expert data parallelism (arXiv 2603.27624). Each worker's memory holds an equal part of every expert,
    cut into micro-slices of `slice_bytes`; a layer takes these in rounds, see `simulator.runtime.circulating`.
    `sram_bytes` is what a worker has on chip for slices. `paired`: experts of many and of few tokens in turn, so that
    slices of one are loaded while the other is computed; else as they are asked for. One worker alone is `plain`.
    """

    def __init__(self, sram_bytes: int = 14_000_000, slice_bytes: int = 262_144, paired: bool = True) -> None:
        if slice_bytes < LEAST_SLICE_BYTES or sram_bytes < 3 * slice_bytes:
            raise ValueError(
                f"policy.pipeline.sram_bytes is {sram_bytes} and slice_bytes {slice_bytes}; expected room for three"
                f" slices of at least {LEAST_SLICE_BYTES} bytes."
            )
        self.slice_bytes, self.paired = slice_bytes, paired
        self.ahead = sram_bytes // slice_bytes - 2  # beside the slice that is computed and the one that arrives
