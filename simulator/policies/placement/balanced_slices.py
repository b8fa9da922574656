import numpy as np
from scipy.optimize import linprog

from simulator.policies.placement.popular import PopularFirst

LIMITS = (1.0, 1.1, 1.25, 1.5)  # of the mean load, tried in turn


class BalancedSlices(PopularFirst):
    """Cuts experts over workers, hot ones over more of them, so that what they compute and receive ends first (HD-MoE).

    HD-MoE (ICCAD 2025, arXiv 2509.09420): minimises t_comp + 2 gamma t_comm of each layer over shares P_ic of expert i
    on worker c; t_comp is the most that a worker computes, t_comm the most tokens that reach one. There by integer
    programming on how often experts are chosen together; here each of several candidates (`candidates`) is counted on
    requests that are not served, `step_tokens` of their tokens at a time, and the best one stays. Its search for
    positions on the mesh, and its broadcasts ahead, are not here.

    gamma: how much longer moves take than on one link by themselves; k / 4 for even traffic on a mesh of k x k workers,
    half of which crosses the k links of the middle, half of that in each direction.
    """

    slices = True

    def __init__(self, gamma: float = 1.0, step_tokens: int = 512, most_tokens: int = 4096) -> None:
        if gamma < 0 or step_tokens < 1 or most_tokens < step_tokens:
            raise ValueError(
                f"policy.placement.gamma is {gamma}, step_tokens {step_tokens}, most_tokens {most_tokens}; expected"
                " gamma of at least 0, step_tokens of at least 1, and most_tokens not below it."
            )
        self._gamma, self._step, self._most = gamma, step_tokens, most_tokens

    def bind(self, context):
        super().bind(context)
        rows, left = [], self._most
        for request in context.training():
            rows.append(request.experts[:left])
            left -= len(rows[-1])
            if left <= 0:
                break
        alike = np.arange(context.experts).reshape(-1, 1, 1).repeat(context.layers, axis=1)  # if there are none
        self._rows = np.concatenate(rows) if rows else alike
        self._experts = context.experts

    def shares(self, layer, workers, moves):
        ids = self._rows[:, layer]
        chosen = np.zeros((len(ids), self._experts))
        np.put_along_axis(chosen, np.maximum(ids, 0), ids >= 0, axis=1)
        steps = range(0, max(1, len(ids) - self._step + 1), self._step)  # whole ones, unless there is none
        loads = np.array([chosen[first : first + self._step].sum(axis=0) for first in steps])

        def ends(shares):
            """What the layer takes on average over steps, in units of an expert's time for one token."""
            there = chosen @ (shares > 0) > 0
            reached = np.array([there[first : first + self._step].sum(axis=0) for first in steps])
            return (loads @ shares).max(axis=1).mean() + 2 * self._gamma * moves * reached.max(axis=1).mean()

        return min(candidates(chosen.sum(axis=0) + 1 / self._experts, workers), key=ends)  # no expert is free


def candidates(load, workers):
    """Shares [experts, workers] to choose from: for each way to make equal groups of the workers, every expert cut
    evenly over one group (groups of one: expert parallelism, one group: tensor parallelism), and those in which no
    group has more than a limit, see `cut`."""
    for size in (size for size in range(1, workers + 1) if workers % size == 0):
        groups = workers // size
        dealt = np.eye(groups)[in_order(load, groups)]
        limits = [limit for limit in LIMITS if (load @ dealt).max() > limit * load.sum() / groups]
        for shares in (dealt, *(cut(load, dealt, limit) for limit in limits)):
            yield np.repeat(shares, size, axis=1) / size


def in_order(load, groups):
    """Group of each expert: the busiest first, each to the least loaded group (LPT; Graham, SIAM J. Appl. Math. 17,
    1969)."""
    owner, total = np.zeros(len(load), dtype=int), np.zeros(groups)
    for expert in np.argsort(-load, kind="stable"):
        owner[expert] = np.argmin(total)
        total[owner[expert]] += load[expert]
    return owner


def cut(load, dealt, limit):
    """Shares P [experts, groups] that leave as much load as they can where it was `dealt`, such that no group has more
    than `limit` times the mean:

        maximise sum_ig D_ig f_i P_ig   with   sum_i P_ig f_i <= limit f / groups of each g,   sum_g P_ig = 1,   P >= 0

    f_i: load of each expert, f their sum. A transportation problem, of which the simplex method finds a corner: at most
    experts + groups - 1 shares are not zero.
    """
    experts, groups = dealt.shape
    part = load / load.sum()
    found = linprog(
        -(dealt * part[:, None]).ravel(),  # variables by expert, then by group
        A_ub=np.kron(part, np.eye(groups)),
        b_ub=np.full(groups, limit / groups * (1 + 1e-9)),
        A_eq=np.kron(np.eye(experts), np.ones(groups)),
        b_eq=np.ones(experts),
        method="highs-ds",
    )
    shares = np.clip(found.x.reshape(experts, groups), 0.0, 1.0)
    shares[shares < 1e-6] = 0.0
    return shares / shares.sum(axis=1, keepdims=True)
