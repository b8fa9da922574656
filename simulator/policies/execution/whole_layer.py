from simulator.policies.execution.base import ExecutionPolicy, Split


class WholeLayer(ExecutionPolicy):
    """A layer waits for all its experts, asked for or not: what software does that does not know of experts.

    Hooks of Accelerate (the naive variant of arXiv 2312.17238, section 4), DeepSpeed's parameter offload, the
    prefetch-all baseline of arXiv 2308.12066 (SE-MoE).
    """

    always = True

    def split(self, work):
        begin = work.layer * work.experts
        asked = set(work.blobs)
        return Split([*work.misses, *(blob for blob in range(begin, begin + work.experts) if blob not in asked)])
