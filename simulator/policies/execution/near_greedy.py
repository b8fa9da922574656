from simulator.policies.execution.near import NearExecution, slower_ps


class NearGreedy(NearExecution):
    """All begin on the worker; the expert of fewest tokens moves to the unit while the slower side gets quicker.

    Expert co-processing of Duplex (MICRO 2024, arXiv 2409.01141), which looks both times up in a table by tokens.
    Experts that would have to be fetched move first.
    """

    resident_first = True

    def count(self, work, unit, order):
        count = len(order)
        ends_ps = slower_ps(work, unit, order, count)
        while count:
            fewer_ps = slower_ps(work, unit, order, count - 1)
            if fewer_ps >= ends_ps:
                break
            count, ends_ps = count - 1, fewer_ps
        return count
