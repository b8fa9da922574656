from simulator.policies.execution.base import Split
from simulator.policies.execution.cheapest import Cheapest


class Precalculate(Cheapest):
    """Missing experts run on the host CPU, which begins those of the next layer while the worker runs this one.

    DAOP (DATE 2025, arXiv 2501.10375, and model/modeling.py of its repository). In decode, from layer `first_layer`
    (`first_predict_layer`) on, the likeliest expert expected of the next layer that is not on the worker is begun a
    layer ahead; one for each token, as `gating` replaces the others. Prompts: an expert of the host that serves over
    `swap` times the tokens of the worker's coldest one takes its place (`swap_in_out`), for at most half of a layer's
    experts (`largest_num`); the others run where it is cheaper, by the rule and constants of `cheapest`.
    """

    always = True
    precomputes = True

    def __init__(
        self,
        first_layer: int = 5,
        swap: float = 1.05,
        cpu_s_per_token: float | None = None,
        fetch_s: float | None = None,
    ) -> None:
        super().__init__(cpu_s_per_token, fetch_s)
        if first_layer < 1 or swap < 1:
            raise ValueError(
                f"policy.execution.first_layer is {first_layer} and swap {swap}; expected at least 1 and at least 1."
            )
        self._first_layer, self._swap = first_layer, swap

    def bind(self, context):
        self._top_k = context.top_k

    def split(self, work):
        if not work.prefill:
            return Split((), work.misses)
        swapped = self.swapped(work)
        rest = [blob for blob in work.misses if blob not in swapped]
        on_cpu = [blob for blob in rest if self._cpu_ps(work, blob) <= self._fetch_ps(work, blob)]
        return Split([*swapped, *(blob for blob in rest if blob not in on_cpu)], on_cpu)

    def swapped(self, work):
        """Missing experts that take the place of one on the worker, hottest first."""
        begin = work.layer * work.experts
        here = [blob for blob in range(begin, begin + work.experts) if work.resident(blob)]
        cold = sorted(work.tokens.get(blob, 0) for blob in here)[: work.experts // 2]
        hot = sorted(work.misses, key=lambda blob: -work.tokens[blob])
        return [blob for blob, tokens in zip(hot, cold, strict=False) if work.tokens[blob] > self._swap * tokens]

    def ahead(self, work):
        following = work.layer + 1
        if work.prefill or not self._first_layer <= following < work.layers:
            return ()
        requests = max(1, round(sum(work.tokens.values()) / self._top_k))
        expected = [blob for blob in work.expected if work.layer_of(blob) == following][: self._top_k * requests]
        return [blob for blob in expected if not work.here_or_coming(blob)][:requests]
