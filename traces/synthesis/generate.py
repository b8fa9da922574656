"""Drawing tokens from a routing model, many layers and requests at once.

Layer l of token t needs layer l - 1 of token t and layer l of token t - 1, so all (token, layer) with the same
t + l are drawn together (a wavefront), for several requests side by side.
"""

from __future__ import annotations

import numpy as np

from traces.synthesis.model import DECAYS, RoutingModel

CACHED_ELEMENTS = 1 << 16
_SMALLEST = np.float32(2.0**-26)  # for u = 0


def generate(model: RoutingModel, lengths: np.ndarray, kinds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Experts int16 [n, max(lengths), L, k] in rank order of n requests of `lengths` tokens and of `kinds` (each [n]).

    What is behind a request's length is of no meaning.
    """
    (layers, experts), slots = model.bias.shape, model.top_k
    count, longest = len(lengths), int(lengths.max())
    out = np.zeros((count, longest, layers, slots), dtype=np.int16)
    memory = _Memory(model, kinds)
    coupling = model.coupling.reshape(layers * experts, experts) if model.coupling.any() else None
    sticky = model.sticky[:, None] + model.kind_sticky[:, kinds, None]  # [L, n, k]
    last = np.zeros((layers, count, slots), dtype=np.int64)  # of each layer, the token drawn last
    buffers = [np.empty((layers, count, experts), dtype=np.float32) for _ in range(2)]
    for front in range(longest + layers - 1):
        low, high = max(0, front - longest + 1), min(layers, front + 1)  # layers of this front
        here, rows = slice(low, high), np.arange((high - low) * count)
        tokens = front - np.arange(low, high)  # of each layer
        score, work = (buffer[: high - low] for buffer in buffers)
        _gumbel(score, rng)
        memory.add_to(score, here, work)
        if coupling is not None and high > 1:
            start = max(low, 1)
            above = last[start - 1 : high - 1] + (np.arange(start, high) * experts)[:, None, None]
            target, part = score[start - low :], work[start - low :]
            for slot in range(slots):
                np.take(coupling, above[:, :, slot], axis=0, out=part, mode="clip")
                target += part
        flat = score.reshape(len(rows), experts)
        if front:
            begun = int(np.count_nonzero(tokens))  # the first so many layers have a token before
            before = last[low : low + begun].reshape(-1, slots)
            flat[rows[: len(before), None], before] += sticky[low : low + begun].reshape(-1, slots)
        chosen = np.empty((len(rows), slots), dtype=np.int64)
        for slot in range(slots):
            chosen[:, slot] = best = flat.argmax(axis=1)
            flat[rows, best] = -np.inf
        last[here] = chosen.reshape(high - low, count, slots)
        out[:, tokens, np.arange(low, high)] = last[here].transpose(1, 0, 2)
        memory.remember(here, last[here])
    return out


def _gumbel(out: np.ndarray, rng: np.random.Generator) -> None:
    """Fill `out` with standard Gumbel noise, -log(-log u)."""
    rng.random(dtype=np.float32, out=out)
    np.maximum(out, _SMALLEST, out=out)
    np.log(out, out=out)
    np.negative(out, out=out)
    np.log(out, out=out)
    np.negative(out, out=out)


class _Memory:
    """The part of the scores that a request carries along: bias, kind, and the logarithms of what was used so far."""

    def __init__(self, model: RoutingModel, kinds: np.ndarray) -> None:
        base = (model.bias + model.kind[kinds]).transpose(1, 0, 2).astype(np.float32)  # [L, n, E]
        self._base = np.ascontiguousarray(base)
        self._prior = np.empty_like(self._base)
        self._prior[:] = model.prior_tokens * model.use[:, None]
        strengths = zip(DECAYS, model.memory.T, strict=True)
        self._tables = [(decay, power, self._prior.copy()) for decay, power in strengths if power.any()]
        for decay, power, table in self._tables:
            if decay == 1.0:
                self._base += power[:, None, None] * np.log(table)

    def add_to(self, score: np.ndarray, here: slice, work: np.ndarray) -> None:
        score += self._base[here]
        for decay, power, table in self._tables:
            if decay != 1.0:
                np.log(table[here], out=work)
                work *= power[here, None, None]
                score += work

    def remember(self, here: slice, chosen: np.ndarray) -> None:
        """`chosen` [layers, n, k] were used. What never fades changes the scores of these alone."""
        layer, request = np.ogrid[here.start : here.stop, : chosen.shape[1]]
        place = layer[:, :, None], request[:, :, None], chosen
        for decay, power, table in self._tables:
            if decay == 1.0:
                old = table[place]
                table[place] = old + 1.0
                self._base[place] += power[here, None, None] * np.log1p(1.0 / old)
            else:  # towards the prior, which does not fade
                part = table[here]
                part -= self._prior[here]
                part *= np.float32(decay)
                part += self._prior[here]
                table[place] += 1.0


def generate_all(
    model: RoutingModel, lengths: np.ndarray, kinds: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Experts of each request, [its length, L, k]; requests of like length are drawn side by side."""
    width = lanes(model)
    order = np.argsort(-lengths, kind="stable")
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(order), width):
        some = order[start : start + width]
        block = generate(model, lengths[some], kinds[some], rng)
        for place, index in enumerate(some):
            found[int(index)] = block[place, : lengths[index]].copy()
    return [found[index] for index in range(len(order))]


def lanes(model: RoutingModel) -> int:
    """Requests side by side: as many as keep the working arrays in a core's cache, at least 4, at most 32."""
    layers, experts = model.bias.shape
    return int(np.clip(CACHED_ELEMENTS // (layers * experts), 4, 32))
