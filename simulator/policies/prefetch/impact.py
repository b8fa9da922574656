from simulator.policies.execution.timelines import schedule
from simulator.policies.prefetch.base import PrefetchPolicy


class ByImpact(PrefetchPolicy):
    """Fetches the expected expert that would shorten its layer most, again and again until the link is busy.

    HybriMoE (arXiv 2504.05897, section 4.2): the layers expected are scheduled as `execution=timelines` would, with and
    without the candidate resident; ties go to the nearest layer. A layer waits for an expert that is on its way: one
    that would come too late, by layers as long as the running one, delays the layer's end. The link counts as busy
    once what waits for it would last longer than the running layer.
    """

    def __init__(self, promote: bool = True, cancel: bool = True, chunks: int | None = None) -> None:
        if chunks is not None and chunks < 1:
            raise ValueError(f"policy.prefetch.chunks is {chunks}; expected at least 1 or null.")
        self.promotes, self.cancels, self.chunks = promote, cancel, chunks

    def choose(self, missing, work):
        expected: dict[int, dict[int, int]] = {}
        for blob in work.expected:
            expected.setdefault(work.layer_of(blob), {})[blob] = 1
        served = sum(work.tokens.values())
        for layer in expected.values():
            layer.update(dict.fromkeys(layer, max(1, round(served / len(layer)))))
        here = {layer: {blob for blob in blobs if work.here_or_coming(blob)} for layer, blobs in expected.items()}
        now = schedule(work, work.tokens, {blob for blob in work.blobs if work.here_or_coming(blob)}).ends_ps
        candidates = dict.fromkeys(missing)
        waits_ps, chosen = work.queued_ps, []
        while candidates and waits_ps < now:
            ends_ps = {layer: schedule(work, blobs, here[layer]).ends_ps for layer, blobs in expected.items()}

            def gain(blob, ends_ps=ends_ps, waits_ps=waits_ps):
                layer = work.layer_of(blob)
                with_it = schedule(work, expected[layer], here[layer] | {blob}).ends_ps
                late_ps = waits_ps + work.fetch_ps(blob) - work.distance(blob) * now
                if late_ps > 0:
                    with_it = max(with_it, late_ps + work.run_ps(blob, expected[layer][blob]))
                return ends_ps[layer] - with_it, -work.distance(blob)

            best = max(candidates, key=gain)
            if gain(best)[0] <= 0:
                break
            del candidates[best]
            here[work.layer_of(best)].add(best)
            chosen.append(best)
            waits_ps += work.fetch_ps(best)
        return chosen
