"""Tokens of each expert on the busiest expert-parallel rank, in expectation, for the two synthetic routings.

balanced       token t goes to experts t + i·stride modulo E, i < k, stride = ceil(E / k); fewer tokens than the stride
               are spread over it. Rank 0 counts.
power law a    each expert draws a popularity from x^-a on [1, 0.8 T] (on [0.01, 2] if T·k <= E); popularities are
               scaled to T·k, rounded and clamped at T. What is left over is dealt by one of RULES. The rank with the
               highest load counts. The draw is unknown, so its expectation is used: the mean order statistics of the
               popularities on the busiest rank.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from hwmodels.operators import Array

TILES = (16, 32, 64, 128)
"""Rows of the tiles among which grouped GEMMs choose."""

RULES = ("level", "busy", "idle")
"""Who gets what is left over: the least loaded experts, alike on every rank (newer measurements); one each to the
experts in turn, those with tokens first, then the idle ones in their order; or the idle ones first."""

_NODES = 48  # at most, that stand for the experts of a rank
_DRAWS = 48  # of all popularities, to find the busiest rank
_REFERENCE = 1024.0  # tokens at which it is looked for
_GRID = np.unique(np.r_[2.0 ** np.arange(24), 3.0 * 2.0 ** np.arange(22)])


class Loads(NamedTuple):
    """One entry per row: (token, expert) pairs on the rank; experts with a token; whole tiles of TILES[i] rows."""

    pairs: Array
    active: Array
    tiles: Array


def expert_loads(
    tokens: Array, topk: Array, experts: Array, ranks: Array, exponent: Array, rule: Array, groups: Array
) -> Loads:
    """Expected loads; arrays of one dimension and length.

    ranks     divide the experts
    exponent  of the power law, 0 for balanced
    rule      index into RULES, for power laws
    groups    of experts, half of which a token may use (DeepSeek-V3); 1 for a free choice. Changes balanced only
    """
    keys = np.stack([tokens, topk, experts, ranks, exponent, rule, groups], axis=1).astype(np.float64)
    if not len(keys):
        return Loads(np.zeros(0), np.zeros(0), np.zeros((len(TILES), 0)))
    order = np.lexsort(keys.T)
    keys = keys[order]
    distinct = keys[np.r_[True, np.any(keys[1:] != keys[:-1], axis=1)]]
    inverse = np.empty(len(keys), dtype=np.int64)
    inverse[order] = np.cumsum(np.r_[False, np.any(keys[1:] != keys[:-1], axis=1)])
    counts = np.zeros((len(distinct), 2 + len(TILES)))
    starts = np.flatnonzero(np.r_[True, np.any(distinct[1:, 1:] != distinct[:-1, 1:], axis=1)])
    for first, last in zip(starts, np.r_[starts[1:], len(distinct)], strict=True):
        count, (k, all_experts, world, power, dealing, group) = distinct[first:last, 0], distinct[first, 1:].tolist()
        if power == 0:
            load = _balanced(count, int(k), int(all_experts), int(world), int(group))
            counts[first:last] = _counts(load, 1.0)
        else:
            grid, table = _power_law(k, int(all_experts), int(world), power, RULES[int(dealing)])
            counts[first:last] = _interpolated(count, grid, table)
    counts = counts[inverse]
    return Loads(counts[:, 0], counts[:, 1], counts[:, 2:].T)


def _counts(load: Array, weight: float) -> Array:
    """Pairs, active experts and tiles of loads of shape (rows, experts that each stand for `weight`)."""
    tiles = [np.where(load < 1, load, np.ceil(load / tile)) for tile in TILES]
    return np.stack([part.sum(axis=1) * weight for part in (load, np.minimum(load, 1.0), *tiles)], axis=1)


def _balanced(tokens: Array, topk: int, experts: int, ranks: int, groups: int) -> Array:
    """Tokens of each expert of rank 0. Shape (tokens, experts of the rank)."""
    stride, local = -(-experts // topk), experts // ranks
    expert, count = np.arange(local), tokens[:, None]
    offset = (expert[:, None] - np.arange(topk) * stride) % experts
    many = np.maximum(np.ceil((count[:, None] - offset) / experts), 0).sum(axis=2)
    # fewer than the stride: whole tokens for the experts of each turn, evenly spread over these
    turn = np.minimum(stride, local - expert // stride * stride)
    few = np.ceil(turn * count / stride) / turn
    wrapped = min(topk * stride - experts, local)  # the last turn begins again at the first expert
    if wrapped > 0:
        few[:, :wrapped] += np.floor(wrapped * count / stride) / wrapped
    load = np.where(count >= stride, many, few)
    if groups > 1:
        # every group holds one choice of each token. The first half of the groups is kept; equal scores fill up with
        # the first experts that are left
        fillers = min(topk - groups // 2, local)
        if fillers < local:
            load[:, fillers] += load[:, :fillers].sum(axis=1)
        load[:, :fillers] = count
        load[:, experts // 2 :] = 0.0
    return np.asarray(load)


@cache
def _power_law(topk: float, experts: int, ranks: int, exponent: float, rule: str) -> tuple[Array, Array]:
    """(numbers of tokens, pairs, active experts and tiles of the busiest rank at each of them)."""
    border = np.floor(experts / topk)
    tokens = np.unique(np.r_[_GRID, border, border + 1])
    scarce = tokens * topk <= experts
    parts = [
        _loads(tokens[chosen], low, high[chosen], topk, experts, ranks, exponent, rule)
        for chosen, low, high in ((scarce, 0.01, np.full(len(tokens), 2.0)), (~scarce, 1.0, 0.8 * tokens))
    ]
    counts = _counts(np.concatenate(parts), max(experts / ranks / _NODES, 1.0))
    if rule == "level":
        counts = np.maximum.accumulate(counts, axis=0)  # rounding must not make more tokens less work
    return tokens, counts


def _loads(
    tokens: Array, low: float, high: Array, topk: float, experts: int, ranks: int, exponent: float, rule: str
) -> Array:
    rank, everyone = _quantiles(experts, ranks, exponent, low < 1)
    stands_for, weight = experts / len(everyone), max(experts / ranks / _NODES, 1.0)
    popularity = _inverse_cdf(np.r_[rank, everyone][None], low, high[:, None], exponent)
    scale = tokens * topk / (popularity[:, len(rank) :].sum(axis=1) * stands_for)
    load = np.minimum(np.round(popularity * scale[:, None]), tokens[:, None])
    load, others = load[:, : len(rank)], load[:, len(rank) :]
    left_over = tokens * topk - others.sum(axis=1) * stands_for
    if rule == "level":
        share = left_over / ranks
        load = _level(load, np.where(share > 0, np.ceil(share - 1e-9), share) / weight)
    else:
        load = _in_turn(load, left_over, (others > 0).sum(axis=1) * stands_for, experts, weight, rule == "idle")
    return np.clip(load, 0.0, tokens[:, None])


def _interpolated(tokens: Array, grid: Array, table: Array) -> Array:
    """Rows of the table at these numbers of tokens; beyond the grid in proportion."""
    at = np.clip(np.searchsorted(grid, tokens, side="right") - 1, 0, len(grid) - 2)
    part = (tokens - grid[at]) / (grid[at + 1] - grid[at])
    return np.asarray(np.maximum(table[at] + (table[at + 1] - table[at]) * part[:, None], 0.0))


def _inverse_cdf(quantile: Array, low: float, high: Array | float, exponent: float) -> Array:
    power = 1.0 - exponent
    if power == 0:
        return np.asarray(low * (high / low) ** quantile)
    return np.asarray(((high**power - low**power) * quantile + low**power) ** (1.0 / power))


def _cdf(value: Array, low: float, high: float, exponent: float) -> Array:
    power = 1.0 - exponent
    if power == 0:
        return np.asarray(np.log(value / low) / np.log(high / low))
    return np.asarray((value**power - low**power) / (high**power - low**power))


def _level(load: Array, amount: Array) -> Array:
    """Adds `amount` to the least of ascending loads until they are level; takes from the highest if negative."""
    flip = (amount < 0)[:, None]
    load = np.where(flip, -load[:, ::-1], load)
    amount = np.abs(amount)
    total = np.cumsum(load, axis=1)
    raised = np.maximum((np.arange(1, load.shape[1] + 1) * load - total <= amount[:, None]).sum(axis=1), 1)
    level = (np.take_along_axis(total, raised[:, None] - 1, axis=1)[:, 0] + amount) / raised
    load = np.maximum(load, level[:, None])
    return np.where(flip, -load[:, ::-1], load)


def _in_turn(load: Array, amount: Array, busy: Array, experts: int, weight: float, idle_first: bool) -> Array:
    """Adds one to each expert in turn; the idle ones of this rank come first among the idle ones."""
    rounds, rest = np.divmod(np.maximum(amount, 0.0), experts)
    here = np.maximum((load == 0).sum(axis=1) * weight, 1.0)
    for_busy, for_idle = (rest - (experts - busy), rest) if idle_first else (rest, rest - busy)
    to_busy, to_idle = np.clip(for_busy / np.maximum(busy, 1.0), 0.0, 1.0), np.clip(for_idle / here, 0.0, 1.0)
    return np.asarray(load + rounds[:, None] + np.where(load > 0, to_busy[:, None], to_idle[:, None]))


@cache
def _quantiles(experts: int, ranks: int, exponent: float, scarce: bool) -> tuple[Array, Array]:
    """Nodes of the busiest rank's experts, and of all experts: quantiles of their mean order statistics, ascending."""
    low, high = (0.01, 2.0) if scarce else (1.0, 0.8 * _REFERENCE)
    draw = np.random.default_rng(0).random((_DRAWS, ranks, experts // ranks))
    share = _inverse_cdf(draw, low, high, exponent)
    share = share / share.sum(axis=(1, 2), keepdims=True)
    busiest = np.sort(share[np.arange(_DRAWS), share.sum(axis=2).argmax(axis=1)], axis=1).mean(axis=0)
    everyone = np.sort(share.reshape(_DRAWS, experts), axis=1).mean(axis=0)
    total = _inverse_cdf((np.arange(experts) + 0.5) / experts, low, high, exponent).sum()
    quantiles = [_cdf(part * total, low, high, exponent) for part in (busiest, everyone)]
    return _compact(quantiles[0]), _compact(quantiles[1])


def _compact(quantiles: Array) -> Array:
    """At most _NODES of them, evenly spread."""
    count = len(quantiles)
    if count <= _NODES:
        return quantiles
    return np.interp((np.arange(_NODES) + 0.5) / _NODES * count - 0.5, np.arange(count), quantiles)
