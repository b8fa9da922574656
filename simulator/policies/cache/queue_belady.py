import numpy as np

from simulator.policies.cache.lru import Lru

NEVER = 1 << 40


class QueueBelady(Lru):
    """Drops the expert that the running step and the tokens that wait ask for last, if at all (Belady on a queue).

    Read-ME (NeurIPS 2024, arXiv 2410.19123): its router is outside the model, so that the experts of queued tokens are
    known before these run: Belady's rule over the queue, F(e, t) infinite if nobody asks. Tokens of
    running requests come in the order in which they wait, then those of requests that are not admitted yet, whatever
    the scheduler makes of it; of equals the longest unused leaves. lookahead: how many of them it sees; null: all.
    """

    sees_queue = True

    def __init__(self, lookahead: int | None = None) -> None:
        if lookahead is not None and lookahead < 0:
            raise ValueError(
                f"policy.cache.lookahead is {lookahead}; expected at least 0, or null for the whole queue."
            )
        self._lookahead = lookahead
        super().__init__()

    def bind(self, context):
        self._experts = context.experts

    def victims(self, need_bytes, incoming, view):
        queued = view.queued()
        tokens = np.concatenate(queued)[: self._lookahead] if len(queued) else None
        uses: dict[int, np.ndarray] = {}

        def next_use(blob):
            """0: in this step; n: by the n-th token of the queue."""
            layer, expert = view.layer_of(blob), blob % self._experts
            if layer not in uses:
                uses[layer] = np.full(self._experts, NEVER)
                if tokens is not None:
                    _first(uses[layer], tokens[:, layer])
                if layer > view.layer and view.routing is not None:  # a replay has none
                    now = view.routing.ids(layer)
                    uses[layer][now[now >= 0]] = 0
            return uses[layer][expert]

        order = sorted(self._order, key=next_use, reverse=True)  # stable: longest unused first
        if view.prefetching:
            order = [blob for blob in order if next_use(blob) > 0]
        return view.take_until(need_bytes, order)


def _first(uses, rows):
    """Note the first row, from 1, that names each expert; rows [tokens, top_k]."""
    number = np.broadcast_to(np.arange(1, len(rows) + 1)[:, None], rows.shape)
    there = rows >= 0
    np.minimum.at(uses, rows[there], number[there])
