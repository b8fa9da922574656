from simulator.dispatch import StaticDispatch
from simulator.policies.pipeline.plain import PlainPipeline


class StaticCapacity(PlainPipeline):
    """Every expert runs ceil(capacity_factor x tokens) rows of each worker, padded or cut to it, both ways.

    Static gating of fairseq (the baseline of arXiv 2303.06182): the capacity is a share of all tokens of a worker.
    `einsum`: rows are moved by dense products with one-hot masks, else by index; `sequential`: experts run one after
    the other.
    """

    uses = ("weights",)

    def __init__(self, capacity_factor: float = 1.0, einsum: bool = True, sequential: bool = True) -> None:
        if not 0 < capacity_factor <= 1:
            raise ValueError(
                f"policy.pipeline.capacity_factor is {capacity_factor}; expected a share of a worker's tokens, above 0"
                " and at most 1."
            )
        self._fraction, self._einsum, self._sequential = capacity_factor, einsum, sequential

    def dispatch(self, model, workers):
        return StaticDispatch(model, workers, self._fraction, self._einsum, self._sequential)
