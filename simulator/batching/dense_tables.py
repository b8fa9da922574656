"""Dense costs of many steps at once: the numbers of `DenseCosts.table`, from tables that are filled once.

All but attention depends on how many tokens a step has. Attention over decoding requests depends, for most kinds of
layers, on how many there are and on the sum of their context lengths alone; that of prompts on their lengths, which
repeat. Sums of seconds are formed in the order of `DenseCosts`, so that they round to the same picoseconds.
"""

from __future__ import annotations

import numpy as np

from simulator.model_attention import AttentionSpec
from simulator.runtime.costs import DenseCosts, stretch_s, to_ps_array

SEGMENT = 512  # sums of context lengths that are tabulated together
MOST_TABULATED = 32  # requests up to which that pays
KEPT_PROMPTS = 4096
EMBEDDING, HEAD = -1, -2  # beside the kinds of layers
Regime = tuple[bool | None, ...]  # for each kind of layer: whether all contexts reach beyond its window


class DenseTables:
    """ps by what bounds them, of whole steps on one worker. `per_layer_ps` is added to each routed layer's launches."""

    def __init__(self, dense: DenseCosts, per_layer_ps: int = 0) -> None:
        self._dense = dense
        self._times = {stretch: dense.stretches.count(stretch) for stretch in dense.stretches}
        self._added_ps = per_layer_ps * (len(dense.stretches) - 1)
        self._kinds = sorted({layer for _, _, layers in dense.stretches for layer in layers})
        self._specs = [dense.model.attention_of(layer) for layer in self._kinds]
        self._rows_s: dict[int, np.ndarray] = {}
        self._decode_s: dict[tuple[int, int, bool | None, int], np.ndarray] = {}
        self._decode_ps: dict[tuple[int, Regime, int], np.ndarray] = {}
        self._prompts_s: dict[tuple[int, tuple[tuple[int, int], ...]], np.ndarray] = {}

    def decode(self, contexts: np.ndarray) -> np.ndarray:
        """Steps in which every request decodes: context lengths after each [steps, requests] to [steps, 3]."""
        count = contexts.shape[1]
        regime = self._regime(contexts)
        if regime is None or count > MOST_TABULATED:
            one = np.ones(contexts.shape)
            found = {kind: self._dense.attention_s(kind, one, contexts.astype(np.float64)) for kind in self._kinds}
            return self._totals(count, found, count)
        sums = contexts.sum(axis=1)
        return self._gathered(sums, lambda segment: self._decode_segment_ps(count, regime, segment))

    def mixed(self, contexts: np.ndarray, prompts: tuple[tuple[int, int], ...], sampled: int) -> np.ndarray:
        """A step in which requests decode, with context lengths after it [requests], beside (tokens, context length) of
        the chunks of prompts; `sampled` logits are wanted. To [3]. Chunks have more than one token if any decodes."""
        found = {}
        regime = self._regime(contexts[None]) if len(contexts) else None
        for place, kind in enumerate(self._kinds):
            seconds = self._prompt_s(kind, prompts)
            if len(contexts):
                seconds = self._beside_s(place, contexts, regime) + seconds
            found[kind] = seconds
        tokens = len(contexts) + sum(count for count, _ in prompts)
        return self._totals(tokens, found, sampled)[0]

    def _beside_s(self, place: int, contexts: np.ndarray, regime: Regime | None) -> np.ndarray:
        """[1, 3] seconds of the attention of decoding requests in a mixed step."""
        kind, count = self._kinds[place], len(contexts)
        if regime is None or count > MOST_TABULATED:
            one = np.ones((1, count))
            return self._dense.attention_s(kind, one, contexts[None].astype(np.float64), mixed=True)
        segment, row = divmod(int(contexts.sum()), SEGMENT)
        return self._decode_segment_s(count, place, regime[place], segment)[row : row + 1]

    def _prompt_s(self, kind: int, prompts: tuple[tuple[int, int], ...]) -> np.ndarray:
        """[1, 3] seconds of the attention of chunks of prompts."""
        key = kind, prompts
        if key not in self._prompts_s:
            if len(self._prompts_s) >= KEPT_PROMPTS:
                del self._prompts_s[next(iter(self._prompts_s))]
            new, kv = (np.array([column], dtype=np.float64) for column in zip(*prompts, strict=True))
            self._prompts_s[key] = self._dense.attention_s(kind, new, kv)
        return self._prompts_s[key]

    def _regime(self, contexts: np.ndarray) -> Regime | None:
        """None where costs do not follow from the sum of context lengths."""
        found: list[bool | None] = []
        least, most = int(contexts.min()), int(contexts.max())
        for spec in self._specs:
            if isinstance(spec, AttentionSpec) and (spec.is_mla or spec.index_top_k):
                return None
            window = spec.window
            if window is None:
                found.append(None)
            elif least >= window or most <= window:
                found.append(least >= window)
            else:
                return None
        return tuple(found)

    def _gathered(self, sums: np.ndarray, segment_ps: object) -> np.ndarray:
        """Rows of segments for ascending sums."""
        assert callable(segment_ps)
        first, last = int(sums[0]) // SEGMENT, int(sums[-1]) // SEGMENT
        if first == last:
            rows: np.ndarray = segment_ps(first)[sums - first * SEGMENT]
            return rows
        numbers = sums // SEGMENT
        return np.concatenate(
            [segment_ps(n)[sums[numbers == n] - n * SEGMENT] for n in range(first, last + 1) if (numbers == n).any()]
        )

    def _decode_segment_s(self, count: int, place: int, beyond: bool | None, segment: int) -> np.ndarray:
        """[SEGMENT, 3] seconds of a kind of layer's attention, by the sum of context lengths."""
        key = count, place, beyond, segment
        if key not in self._decode_s:
            sums = np.arange(segment * SEGMENT, (segment + 1) * SEGMENT)
            contexts = sums[:, None] // count + (np.arange(count) < sums[:, None] % count)
            one = np.ones(contexts.shape)
            self._decode_s[key] = self._dense.attention_s(self._kinds[place], one, contexts.astype(np.float64))
        return self._decode_s[key]

    def _decode_segment_ps(self, count: int, regime: Regime, segment: int) -> np.ndarray:
        key = count, regime, segment
        if key not in self._decode_ps:
            found = {
                kind: self._decode_segment_s(count, place, regime[place], segment)
                for place, kind in enumerate(self._kinds)
            }
            self._decode_ps[key] = self._totals(count, found, count)
        return self._decode_ps[key]

    def _totals(self, tokens: int, attention_s: dict[int, np.ndarray], sampled: int) -> np.ndarray:
        """Whole steps of equally many tokens, [steps, 3] ps."""
        layers_s = {kind: self._row_s(kind, tokens) + attention_s[kind] for kind in self._kinds}
        shape = np.broadcast_shapes((1, 3), *(found.shape for found in layers_s.values()))
        total = np.zeros(shape, dtype=np.int64)
        ends_s = self._row_s(EMBEDDING, tokens), self._row_s(HEAD, sampled)
        for stretch, times in self._times.items():
            total += times * to_ps_array(stretch_s(stretch, layers_s, *ends_s))
        total[:, 0] += self._added_ps
        return total

    def _row_s(self, part: int, tokens: int) -> np.ndarray:
        """[3] seconds of all of a kind of layer but its attention, of the embedding or of the head."""
        known = self._rows_s.get(part)
        if known is None or tokens >= len(known):
            more = np.arange(max(tokens + 1, 64, 0 if known is None else 2 * len(known)), dtype=np.float64)
            if part == EMBEDDING:
                known = self._dense.embedding_s(more)
            elif part == HEAD:
                known = self._dense.head_s(more)
            else:
                known = self._dense.tokenwise_s(part, more)
            self._rows_s[part] = known
        row: np.ndarray = known[tokens]
        return row
