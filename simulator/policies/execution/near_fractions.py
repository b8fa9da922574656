import numpy as np
from scipy.optimize import linprog

from simulator.policies.execution.base import ExecutionPolicy, Split
from simulator.runtime.near_divided import DIVIDED


class NearFractions(ExecutionPolicy):
    """Units hold fractions of experts, fixed before the run, that balance their loads with few divided ones (HD-MoE).

    HD-MoE (ICCAD 2025, arXiv 2509.09420): a linear programme; see `fractions`. How often an expert is chosen is counted
    in the requests that are not served. Its balance of mesh links, and its broadcasts ahead, are not here.
    """

    uses_units = True
    always = True

    def bind(self, context):
        self._counts = context.popularity().reshape(-1, context.experts)
        self._shares = {}

    def split(self, work):
        units, target = len(work.units), DIVIDED if work.divides else work.units[0]
        able = work.runs_on(target)
        shares = {}
        if work.divides:
            row = able[0] // work.experts if able else 0
            if able and row not in self._shares:
                self._shares[row] = fractions(self._counts[row], units)
            shares = {blob: self._shares[row][blob % work.experts] for blob in able}
        near = set(able)
        return Split([blob for blob in work.misses if blob not in near], units={target: able}, shares=shares)


def fractions(counts, units):
    """Share of each expert on each unit, [experts, units], such that the most loaded unit has as little as can be:

        minimise t   with   sum_i P_ic f_i <= t of each unit c,   sum_c P_ic = 1 of each expert i,   P >= 0

    counts: how often each expert is chosen, integers [experts]; one more is added to each, so that none is free. A
    basic solution, as the simplex method gives, has at most experts + units - 1 fractions that are not zero: few
    experts are divided, and no unit has more than its part.
    """
    load = (np.asarray(counts, dtype=float) + 1) / (np.sum(counts) + len(counts))
    experts = len(load)
    cost = np.zeros(experts * units + 1)
    cost[-1] = 1.0
    above = np.hstack([np.kron(load, np.eye(units)), -np.ones((units, 1))])  # variables by expert, then by unit
    whole = np.hstack([np.kron(np.eye(experts), np.ones(units)), np.zeros((experts, 1))])
    found = linprog(
        cost, A_ub=above, b_ub=np.zeros(units), A_eq=whole, b_eq=np.ones(experts), bounds=(0, None), method="highs-ds"
    )
    shares = np.clip(found.x[:-1].reshape(experts, units), 0.0, 1.0)
    shares[shares < 1e-9] = 0.0
    return shares / shares.sum(axis=1, keepdims=True)
