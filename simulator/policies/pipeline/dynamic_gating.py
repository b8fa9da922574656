from simulator.dispatch import DynamicDispatch
from simulator.policies.pipeline.plain import PlainPipeline


class DynamicGating(PlainPipeline):
    """Rows are sorted by expert and sent in exact sizes, which workers tell each other first; nothing is padded.

    MoE-Deploy (arXiv 2303.06182). `size_exchange`: the all-to-all of sizes; `sequential`: experts run one after the
    other.
    """

    def __init__(self, size_exchange: bool = True, sequential: bool = True) -> None:
        self.announces, self._sequential = size_exchange, sequential

    def dispatch(self, model, workers):
        return DynamicDispatch(model, workers, self._sequential)
