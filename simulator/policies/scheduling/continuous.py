from simulator.policies.scheduling.base import SchedulingPolicy, Turn


class Continuous(SchedulingPolicy):
    """Continuous batching, first come first served, with chunked prefill (Orca, OSDI 2022; Sarathi-Serve, OSDI 2024).

    Each step has up to `token_budget` tokens: one of every running request that decodes, then what is left of prompts,
    cut into chunks; new requests are admitted while fewer than `max_batch` run. Where the KV cache is full, the
    request that was admitted last gives way (`preempt`: recompute or swap), and none is admitted in that step.
    """

    steady = True

    def __init__(self, max_batch: int = 256, token_budget: int = 2048, preempt: str = "recompute") -> None:
        for name, value in (("max_batch", max_batch), ("token_budget", token_budget)):
            if value < 1:
                raise ValueError(f"policy.scheduling.{name} is {value}; expected at least 1.")
        if preempt not in ("recompute", "swap"):
            raise ValueError(f"policy.scheduling.preempt is '{preempt}'; expected recompute or swap.")
        if token_budget < max_batch:
            raise ValueError(
                f"policy.scheduling.token_budget is {token_budget}; expected at least max_batch ({max_batch}), so that"
                " every running request can decode."
            )
        self.max_batch, self.token_budget, self.preempt = max_batch, token_budget, preempt

    def order(self, view):
        """Requests that wait, the first to be admitted first."""
        return view.waiting

    def next_turn(self, view):
        turn, left, pages = Turn(), self.token_budget, view.trial()
        running = list(view.running)
        place = 0
        while place < len(running):
            request = running[place]
            tokens = min(request.prompt_left or 1, left)
            while tokens and not pages.take(request, tokens):
                youngest = running.pop()
                pages.give_back(youngest)
                turn.preempted.append(youngest)
                left += turn.parts.pop(youngest, 0)
                if youngest is request:
                    tokens = 0
            if tokens and place < len(running):
                turn.parts[request] = tokens
                left -= tokens
            place += 1
        if turn.preempted:
            return turn
        for request in self.order(view):
            tokens = min(request.prompt_left or 1, left)
            if not tokens or len(running) >= self.max_batch or not pages.take(request, tokens):
                break
            running.append(request)
            turn.parts[request] = tokens
            left -= tokens
        return turn
