import numpy as np

from simulator.policies.cache.base import CachePolicy

DEGREE = 3  # of the polynomial, in each feature
ROWS = 64  # tokens of a request that it learns from, evenly spaced


class LearnedReuse(CachePolicy):
    """Drops the expert whose next use a model expects last, from how long ago and how often it was used (FlashMoE).

    FlashMoE (arXiv 2601.17063) mixes recency and frequency by a small network that it trains offline; its shape was not
    at hand. Here: least squares for log(1 + tokens until the next use), a cubic polynomial of log(1 + tokens since the
    last use) and of uses per token of the request so far, over the requests that are not served (at most `requests`,
    ROWS tokens of each).
    What is not used again counts as used right after its request's end. Counts start anew with every request.
    """

    def __init__(self, requests: int = 4) -> None:
        if requests < 1:
            raise ValueError(f"policy.cache.requests is {requests}; expected at least 1.")
        self._requests = requests
        self._here: dict[int, None] = {}

    def bind(self, context):
        self._layers = context.layers
        self._last, self._uses = np.full(len(context.size_bytes), -1.0), np.zeros(len(context.size_bytes))
        self._begin = 0
        count = DEGREE + 1
        normal, moment = np.zeros((count * count,) * 2), np.zeros(count * count)
        for number, request in enumerate(context.training()):
            if number == self._requests:
                break
            for layer in range(context.layers):
                ages, rates, waits = samples(request.experts[:, layer], context.experts)
                terms = features(ages, rates)
                normal += terms.T @ terms
                moment += terms.T @ np.log1p(waits)
        if normal[0, 0]:
            self._weights = np.linalg.solve(normal + 1e-6 * normal[0, 0] * np.eye(len(normal)), moment)
        else:  # nothing to learn from: by recency alone
            self._weights = np.zeros(len(moment))
            self._weights[count] = 1.0

    def on_layer(self, blobs, loads, view):
        self._here.update(dict.fromkeys(blobs))
        uses = list(blobs)
        self._uses[uses] += 1
        self._last[uses] = view.group

    def on_insert(self, blobs, view):
        self._here.update(dict.fromkeys(blobs))

    def on_evict(self, blob):
        self._here.pop(blob, None)

    def on_sequence_end(self, view):
        self._uses[:] = 0
        self._begin = view.group + 1

    def victims(self, need_bytes, incoming, view):
        here = np.fromiter(self._here, dtype=np.int64, count=len(self._here))
        tokens = max(1.0, (view.group - self._begin) / self._layers)
        ages = (view.group - self._last[here]) / self._layers
        waits = features(ages, np.minimum(1.0, self._uses[here] / tokens)) @ self._weights
        return view.take_until(need_bytes, here[np.lexsort((here, -ages, -waits))].tolist())


def features(ages: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Products of powers of log(1 + age) and of rate up to DEGREE each, [n, (DEGREE + 1)^2]."""
    powers = [np.vander(values, DEGREE + 1, increasing=True) for values in (np.log1p(ages), rates)]
    return (powers[0][:, :, None] * powers[1][:, None, :]).reshape(len(ages), -1)


def samples(ids: np.ndarray, experts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of ROWS tokens and each expert used before: tokens since its last use, uses per token so far, and
    tokens until its next use, [n] each. ids: [tokens, k], -1 in empty slots."""
    tokens = len(ids)
    used = np.zeros((tokens, experts + 1), dtype=bool)
    used[np.arange(tokens)[:, None], ids] = True  # -1 falls into the last column
    used = used[:, :experts]
    at = np.arange(tokens)[:, None]
    last = np.maximum.accumulate(np.where(used, at, -1), axis=0)
    after = np.minimum.accumulate(np.where(used, at, tokens)[::-1], axis=0)[::-1]
    following = np.concatenate([after[1:], np.full((1, experts), tokens)])  # next use after this token
    rates = np.cumsum(used, axis=0) / (at + 1)
    seen = last >= 0
    seen &= np.isin(at, np.linspace(0, tokens - 1, min(ROWS, tokens)).astype(int))
    return (at - last)[seen].astype(float), rates[seen], (following - at)[seen].astype(float)
