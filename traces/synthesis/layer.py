"""Maximum likelihood of one layer's choices; the loss is convex."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.signal import lfilter
from scipy.sparse import csr_array

from traces.synthesis.likelihood import ranked_loss
from traces.synthesis.model import DECAYS

BATCH_TOKENS, STEPS, RATE = 2048, 300, 0.05  # of stochastic gradient descent
PRECISION = 1.0  # of the normal prior of coefficients
_HALF_COUNT = 0.5  # uses that every expert gets beside its own


class LayerData:
    """The tokens of one layer, T of them, and what their choices may depend on.

    chosen [T, k] int64 in rank order; above [T, k] the choices of the layer before, or None; starts [T] bool: first
    token of a request; kinds [T] of its request.
    """

    def __init__(
        self, chosen: np.ndarray, above: np.ndarray | None, starts: np.ndarray, kinds: np.ndarray, experts: int
    ) -> None:
        tokens, slots = chosen.shape
        counts = np.bincount(chosen.ravel(), minlength=experts) + _HALF_COUNT
        self.use = counts * slots / counts.sum()
        self.chosen, self.kinds, self.experts = chosen, kinds, experts
        self.num_kinds, self.coupled = int(kinds.max()) + 1, above is not None
        self.design = _design(kinds, self.num_kinds, above, experts, tokens)
        self.remembered = _memories(chosen, starts, self.use, experts)
        before = np.concatenate([chosen[:1], chosen[:-1]])
        self.before = np.where(starts[:, None], experts, before)  # `experts`: no token

    def start(self) -> dict[str, np.ndarray]:
        """Parameters to begin with: popularity, and some memory."""
        slots = self.chosen.shape[1]
        return {
            "bias": np.log(self.use).astype(np.float32),
            "table": np.zeros((self.design.shape[1], self.experts), dtype=np.float32),
            "sticky": np.zeros(slots, dtype=np.float32),
            "kind_sticky": np.zeros(self.num_kinds, dtype=np.float32),
            "memory": np.full(len(DECAYS), 0.3, dtype=np.float32),
        }

    def gradient(self, values: dict[str, np.ndarray], rows: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """Mean loss of the tokens `rows`, and its slopes by every parameter; the prior is in the slopes alone."""
        part, lines, own = self.design[rows], np.arange(len(rows))[:, None], self.kinds[rows]
        scores = np.zeros((len(rows), self.experts + 1), dtype=np.float32)  # the last column is for "no token"
        scores[:, :-1] = values["bias"] + part @ values["table"]
        memory = self.remembered[:, rows]
        for index, strength in enumerate(values["memory"]):
            scores[:, :-1] += strength * memory[index]
        before = self.before[rows]
        scores[lines, before] += values["sticky"] + values["kind_sticky"][own, None]
        loss, by_score = ranked_loss(np.ascontiguousarray(scores[:, :-1]), self.chosen[rows])
        padded = np.concatenate([by_score, np.zeros((len(rows), 1), dtype=np.float32)], axis=1)
        by_slot = padded[lines, before]
        by_kind = np.bincount(own, weights=by_slot.sum(axis=1), minlength=self.num_kinds)
        prior = PRECISION / len(self.chosen)  # as the loss is a mean over tokens
        return loss, {
            "bias": by_score.sum(axis=0),
            "table": part.T @ by_score + prior * values["table"],
            "sticky": by_slot.sum(axis=0),
            "kind_sticky": by_kind + prior * values["kind_sticky"],
            "memory": np.array([(by_score * each).sum() for each in memory]),
        }


def fit_layer(data: LayerData, seed: int) -> dict[str, np.ndarray]:
    """Parameters of one layer, as in `RoutingModel` without the layer axis, by Adam (Kingma and Ba, ICLR 2015)."""
    values = data.start()
    means = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in values.items()}
    rng, tokens = np.random.default_rng(seed), len(data.chosen)
    for step in range(1, STEPS + 1):
        rows = np.sort(rng.choice(tokens, BATCH_TOKENS, replace=False)) if tokens > BATCH_TOKENS else np.arange(tokens)
        rate = RATE * min(1.0, 2.0 * (1.0 - (step - 1) / STEPS))  # the second half of the steps shrink to nothing
        for name, slope in data.gradient(values, rows)[1].items():
            first, second = means[name]
            first += 0.1 * (slope - first)
            second += 0.02 * (slope * slope - second)
            move = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.98**step)) + 1e-8)
            values[name] -= np.float32(rate) * move
    table = values.pop("table")
    coupling = table[data.num_kinds :] if data.coupled else np.zeros((data.experts, data.experts), dtype=np.float32)
    return {**values, "kind": table[: data.num_kinds], "coupling": coupling, "use": data.use.astype(np.float32)}


def _design(kinds: np.ndarray, num_kinds: int, above: np.ndarray | None, experts: int, tokens: int) -> csr_array:
    """One row per token: its request's kind, and the experts of the layer before."""
    columns = kinds[:, None] if above is None else np.concatenate([kinds[:, None], above + num_kinds], axis=1)
    width = num_kinds + (0 if above is None else experts)
    bounds = np.arange(tokens + 1) * columns.shape[1]
    return csr_array((np.ones(columns.size, dtype=np.float32), columns.ravel(), bounds), shape=(tokens, width))


def _memories(chosen: np.ndarray, starts: np.ndarray, use: np.ndarray, experts: int) -> np.ndarray:
    """Logarithms of the memories before each token, float32 [M, T, E]."""
    tokens = len(chosen)
    out = np.empty((len(DECAYS), tokens, experts), dtype=np.float32)
    hot = np.zeros((tokens, experts), dtype=np.float32)
    np.put_along_axis(hot, chosen, 1.0, axis=1)
    bounds = np.append(np.flatnonzero(starts), tokens)
    for index, decay in enumerate(DECAYS):
        for start, stop in itertools.pairwise(bounds):
            summed = lfilter([0.0, 1.0], [1.0, -decay], hot[start:stop], axis=0)
            out[index, start:stop] = np.log(use + np.maximum(summed, 0.0))
    return out
