from simulator.policies.execution.base import Split
from simulator.policies.execution.whole_layer import WholeLayer


class BandwidthShare(WholeLayer):
    """Of a layer's missing experts, the share q = link / CPU bandwidth is fetched, the rest runs on the host CPU.

    FreeToken (arXiv 2608.16157, section 3.2 and repository, `_balanced_fetch`): as both read host DRAM, the CPU is left
    CPU - link, so that both sides end together; of the two whole numbers next to q x misses the one whose slower side
    is quicker. Where the CPU is not `least_ratio` times as fast as the link, all are fetched. A prompt streams whole
    layers. Bandwidths are those of one expert of the layer: its bytes by its time on CPU and link.
    """

    uses_cpu = True

    def __init__(self, least_ratio: float = 2.0) -> None:
        if least_ratio < 1:
            raise ValueError(f"policy.execution.least_ratio is {least_ratio}; expected at least 1.")
        self._least_ratio = least_ratio

    def split(self, work):
        if work.prefill:
            return super().split(work)
        misses = work.misses
        if not misses:
            return Split(())
        ratio = work.fetch_ps(misses[0]) / work.cpu_ps(misses[0])  # CPU over link bandwidth
        if ratio <= self._least_ratio:
            return Split(misses)
        fetched = balanced(len(misses), 1 / ratio)
        return Split(misses[:fetched], misses[fetched:])


def balanced(count: int, share: float) -> int:
    """How many of `count` to fetch so that the slower of both sides is quickest; `share` would be even."""

    def slower(fetched: int) -> float:
        return max(fetched * (1 - share), (count - fetched) * share)

    least = int(count * share)
    return min(count, least if slower(least) <= slower(least + 1) else least + 1)
