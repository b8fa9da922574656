import numpy as np

from simulator.policies.scheduling.continuous import Continuous


class SloGreedy(Continuous):
    """Continuous batching that admits those first whose service-level objective leaves the least time.

    eMoE (arXiv 2503.06823): a request is expected to take t = dE + (W + n G) c + r, with W prompt tokens, G output
    tokens and c seconds per token; dE and r, the waits for experts and for the server, are the same for all that
    wait and left out. G is the mean of the task's requests that are not served (of all of them for a task without);
    a request that decodes more has 5 % more than it has decoded. c is that of the run so far. The time left is that
    to the deadline, arrival + slo_ttft_s + G slo_tpot_s, less t; requests without an SLO come last. Other
    parameters as of `continuous`.
    """

    steady = False

    def bind(self, context):
        lengths: dict[str | None, list[int]] = {}
        for request, task in context.labelled():
            lengths.setdefault(task, []).append(int((np.asarray(request.phases) != 0).sum()))
        every = [length for some in lengths.values() for length in some]
        self._usual = float(np.mean(every)) if every else 0.0
        self._by_task = {task: float(np.mean(some)) for task, some in lengths.items() if task is not None}
        self._tokens, self._busy_s = 0, 0.0
        self._last_s, self._last_tokens = 0.0, 0

    def output(self, request):
        """Tokens that a request is expected to decode in all."""
        expected = self._by_task.get(request.task, self._usual)
        return expected if request.output_tokens <= expected else 1.05 * request.output_tokens

    def time_left_s(self, request, time_s):
        """To the deadline, less what the request itself needs; infinite without an SLO."""
        if request.slo_ttft_s is None and request.slo_tpot_s is None:
            return float("inf")
        output = self.output(request)
        allowed_s = (request.slo_ttft_s or 0.0) + output * (request.slo_tpot_s or 0.0)
        token_s = self._busy_s / self._tokens if self._tokens else 0.0
        needs_s = (request.prompt_left + output - request.output_tokens) * token_s
        return request.arrival_s + allowed_s - time_s - needs_s

    def order(self, view):
        return sorted(view.waiting, key=lambda request: self.time_left_s(request, view.time_s))

    def next_turn(self, view):
        if view.running:  # the last step has just ended
            self._tokens += self._last_tokens
            self._busy_s += view.time_s - self._last_s
        turn = super().next_turn(view)
        self._last_s, self._last_tokens = view.time_s, sum(turn.parts.values())
        return turn
