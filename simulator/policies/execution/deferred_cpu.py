import numpy as np

from simulator.policies.execution.base import ExecutionPolicy, Split


class DeferredOnCpu(ExecutionPolicy):
    """Missing experts run on the host CPU; in decode, results of a token's least weighted ones may come a layer later.

    Expert deferral of KTransformers (SOSP 2025; kt-kernel's max_deferred_experts_per_token): of the top-k, all but the
    k - `defer` of largest gate weight are computed while the worker runs the next layer's attention. An expert that
    any token of a batch wants at once is not deferred. A prompt of more than `stream_above` tokens has its experts
    copied to the worker instead (null: never).
    """

    uses_cpu = True
    uses = ("weights",)

    def __init__(self, defer: int = 0, stream_above: int | None = None) -> None:
        if defer < 0:
            raise ValueError(f"policy.execution.defer is {defer}; expected at least 0.")
        self._defer, self._stream_above = defer, stream_above

    def bind(self, context):
        self._top_k = context.top_k

    def split(self, work):
        tokens = sum(work.tokens.values()) / self._top_k
        if work.prefill and self._stream_above is not None and tokens > self._stream_above:
            return Split(work.misses)
        if work.prefill or not self._defer:
            return Split((), work.misses)
        ids, weights = work.routing.ids(work.layer), work.routing.weights(work.layer)
        order = np.argsort(-weights, axis=1, kind="stable")[:, : max(0, ids.shape[1] - self._defer)]
        at_once = set(np.take_along_axis(ids, order, axis=1).ravel().tolist())
        first = [blob for blob in work.misses if blob % work.experts in at_once]
        later = [blob for blob in work.misses if blob % work.experts not in at_once]
        return Split((), [*first, *later], later)
