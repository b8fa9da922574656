from simulator.policies.scheduling.base import SchedulingPolicy, Turn, with_room


class ExpertAware(SchedulingPolicy):
    """Fills a step with the tokens of the expert for which most tokens wait, then of the next, up to `token_budget`.

    Read-ME (NeurIPS 2024, arXiv 2410.19123): a router outside the model gives each token one expert for all layers
    before it runs, so that tokens wait in a queue per expert, and a batch asks for few experts. A prompt's tokens
    run in order: those that ask for the expert of its first waiting one are in that queue, the next ones follow.
    by_expert: false takes tokens by how long they have waited, the conventional batching of the paper. A request is
    admitted once there is room for all of its answer, so that none is preempted. Where tokens have several experts, or
    others in other layers, the first one in the first routed layer counts.
    """

    def __init__(self, max_batch: int = 256, token_budget: int = 2048, by_expert: bool = True) -> None:
        for name, value in (("max_batch", max_batch), ("token_budget", token_budget)):
            if value < 1:
                raise ValueError(f"policy.scheduling.{name} is {value}; expected at least 1.")
        self.max_batch, self._token_budget, self._by_expert = max_batch, token_budget, by_expert

    def next_turn(self, view):
        turn, left = Turn(), self._token_budget
        ready = sorted(with_room(view, self.max_batch), key=lambda request: (request.ready_s, request.order))
        if not self._by_expert:
            for request in ready:
                if left:
                    turn.parts[request] = min(request.prompt_left or 1, left)
                    left -= turn.parts[request]
            return turn
        queues: dict[int, list] = {}  # expert -> (request, its tokens from here on, those of them with this expert)
        for request in ready:
            _enqueue(queues, request, view.asked(request)[:, 0, 0].tolist())
        while left and queues:
            expert = max(queues, key=lambda expert: (sum(run for _, _, run in queues[expert]), -expert))
            for request, tokens, run in queues.pop(expert):
                taken = min(run, left)
                if taken:
                    turn.parts[request] = turn.parts.get(request, 0) + taken
                    left -= taken
                    if left and tokens[run:]:
                        _enqueue(queues, request, tokens[run:])
        return turn


def _enqueue(queues, request, tokens):
    run = next((n for n, expert in enumerate(tokens) if expert != tokens[0]), len(tokens))
    queues.setdefault(tokens[0], []).append((request, tokens, run))
