from simulator.policies.prefetch.ahead import FetchAhead


class PrefillAhead(FetchAhead):
    """As `ahead`, but only for the layers to come of a prompt: while one layer runs, the next one streams in.

    The double-buffered prefill of FreeToken (arXiv 2608.16157, section 3.3 and repository).
    """

    def choose(self, missing, work):
        if not work.prefill:
            return ()
        return super().choose([blob for blob in missing if work.layer_of(blob) > work.layer], work)
