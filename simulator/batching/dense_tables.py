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
KEPT_PROMPTS, KEPT_SEGMENTS = 4096, 1024  # then tables are filled anew, so that a long run takes no more memory
EMBEDDING, HEAD = -1, -2  # beside the kinds of layers
Regime = tuple[bool | None, ...]  # for each kind of layer: whether all contexts reach beyond its window


class DenseTables:
    """ps by what bounds them, of whole steps on one worker. `per_layer_ps` is added to each routed layer's launches."""

    def __init__(self, dense: DenseCosts, per_layer_ps: int = 0) -> None:
        self._dense = dense
        self._times = {stretch: dense.stretches.count(stretch) for stretch in dense.stretches}
        self._added_ps = per_layer_ps * (len(dense.stretches) - 1)
        self._kinds = sorted({layer for _, _, layers in dense.stretches for layer in layers})
        specs = [dense.model.attention_of(layer) for layer in self._kinds]
        self._windows = [spec.window for spec in specs]
        self._by_sum = not any(isinstance(spec, AttentionSpec) and (spec.is_mla or spec.index_top_k) for spec in specs)
        self._rows_s: dict[int, np.ndarray] = {}
        self._decode_s: dict[tuple[int, Regime, int], dict[int, np.ndarray]] = {}
        self._decode_ps: dict[tuple[int, Regime, int], np.ndarray] = {}
        self._mixed_ps: dict[tuple[object, ...], np.ndarray] = {}
        self._asked: set[tuple[object, ...]] = set()
        self._prompts_s: dict[tuple[int, tuple[tuple[int, int], ...]], np.ndarray] = {}

    def decode(self, contexts: list[int], steps: int) -> np.ndarray:
        """Steps in which requests decode, with these context lengths after the first one: [steps, 4], ps by what bounds
        them and all together."""
        count, least, most = len(contexts), min(contexts), max(contexts) + steps - 1
        regime = self._regime(least, most)
        if regime is None or count > MOST_TABULATED:
            lengths = (np.array(contexts) + np.arange(steps)[:, None]).astype(np.float64)
            found = {kind: self._dense.attention_s(kind, np.ones(lengths.shape), lengths) for kind in self._kinds}
            return self._totals(count, found, count)
        total, rows = sum(contexts), []
        left = steps
        while left:
            segment, row = divmod(total, SEGMENT)
            key = count, regime, segment
            if key not in self._decode_ps:
                if len(self._decode_ps) >= KEPT_SEGMENTS:
                    self._decode_ps.clear()
                self._decode_ps[key] = self._segment_ps(count, regime, segment)
            part = self._decode_ps[key][row::count][:left]
            rows.append(part)
            left -= len(part)
            total += count * len(part)
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def mixed(self, contexts: list[int], prompts: tuple[tuple[int, int], ...], sampled: int) -> np.ndarray:
        """A step in which requests decode, with these context lengths after it, beside (tokens, context length) of the
        chunks of prompts; `sampled` logits are wanted. To [4]. Chunks have more than one token if any decodes."""
        regime = self._regime(min(contexts), max(contexts)) if contexts else ()
        tokens = len(contexts) + sum(count for count, _ in prompts)
        if regime is not None and contexts and len(contexts) <= MOST_TABULATED:
            segment, row = divmod(sum(contexts), SEGMENT)
            key = len(contexts), regime, segment, prompts, sampled
            if len(self._mixed_ps) >= KEPT_SEGMENTS:
                self._mixed_ps.clear()
            if key in self._mixed_ps:
                found: np.ndarray = self._mixed_ps[key][row]
                return found
            if self._often(key):
                beside = self._segment_s(len(contexts), regime, segment)
                found_s = {kind: beside[kind] + self._prompt_s(kind, prompts) for kind in self._kinds}
                self._mixed_ps[key] = self._totals(tokens, found_s, sampled)
                return self._mixed_ps[key][row]
        found_s = {}
        for kind in self._kinds:
            seconds = self._prompt_s(kind, prompts)
            found_s[kind] = self._beside_s(kind, contexts, regime) + seconds if contexts else seconds
        return self._totals(tokens, found_s, sampled)[0]

    def _often(self, key: tuple[object, ...]) -> bool:
        """Whether this was asked before, so that it pays to tabulate what is near it."""
        if len(self._asked) >= KEPT_PROMPTS:
            self._asked.clear()
            self._mixed_ps.clear()
        seen = key in self._asked
        self._asked.add(key)
        return seen

    def _beside_s(self, kind: int, contexts: list[int], regime: Regime | None) -> np.ndarray:
        """[1, 3] seconds of the attention of decoding requests in a mixed step."""
        if regime is None or len(contexts) > MOST_TABULATED:
            lengths = np.array([contexts], dtype=np.float64)
            return self._dense.attention_s(kind, np.ones(lengths.shape), lengths, mixed=True)
        segment, row = divmod(sum(contexts), SEGMENT)
        return self._segment_s(len(contexts), regime, segment)[kind][row : row + 1]

    def _prompt_s(self, kind: int, prompts: tuple[tuple[int, int], ...]) -> np.ndarray:
        """[1, 3] seconds of the attention of chunks of prompts."""
        key = kind, prompts
        if key not in self._prompts_s:
            if len(self._prompts_s) >= KEPT_PROMPTS:
                del self._prompts_s[next(iter(self._prompts_s))]
            new, kv = (np.array([column], dtype=np.float64) for column in zip(*prompts, strict=True))
            self._prompts_s[key] = self._dense.attention_s(kind, new, kv)
        return self._prompts_s[key]

    def _regime(self, least: int, most: int) -> Regime | None:
        """Of context lengths from `least` to `most`; None where costs do not follow from their sum."""
        if not self._by_sum:
            return None
        found: list[bool | None] = []
        for window in self._windows:
            if window is None:
                found.append(None)
            elif least >= window or most <= window:
                found.append(least >= window)
            else:
                return None
        return tuple(found)

    def _segment_s(self, count: int, regime: Regime, segment: int) -> dict[int, np.ndarray]:
        """[SEGMENT, 3] seconds of each kind of layer's attention, by the sum of context lengths."""
        key = count, regime, segment
        if key not in self._decode_s:
            if len(self._decode_s) >= KEPT_SEGMENTS:
                self._decode_s.clear()
            sums = np.arange(segment * SEGMENT, (segment + 1) * SEGMENT)
            lengths = (sums[:, None] // count + (np.arange(count) < sums[:, None] % count)).astype(np.float64)
            one = np.ones(lengths.shape)
            self._decode_s[key] = {kind: self._dense.attention_s(kind, one, lengths) for kind in self._kinds}
        return self._decode_s[key]

    def _segment_ps(self, count: int, regime: Regime, segment: int) -> np.ndarray:
        """[SEGMENT, 4] ps of steps in which requests decode, by the sum of context lengths."""
        return self._totals(count, self._segment_s(count, regime, segment), count)

    def _totals(self, tokens: int, attention_s: dict[int, np.ndarray], sampled: int) -> np.ndarray:
        """Whole steps of equally many tokens, from the attention of each kind of layer [steps, 3], to [steps, 4] ps."""
        layers_s = {kind: self._row_s(kind, tokens) + attention_s[kind] for kind in self._kinds}
        return self._summed(layers_s, tokens, sampled)

    def _summed(self, layers_s: dict[int, np.ndarray], tokens: int, sampled: int) -> np.ndarray:
        """As `_totals`, from whole layers [steps, 3]."""
        total = np.zeros((len(layers_s[self._kinds[0]]), 4), dtype=np.int64)
        ends_s = self._row_s(EMBEDDING, tokens), self._row_s(HEAD, sampled)
        for stretch, times in self._times.items():
            total[:, :3] += times * to_ps_array(stretch_s(stretch, layers_s, *ends_s))
        total[:, 0] += self._added_ps
        total[:, 3] = total[:, :3].sum(axis=1)
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


class StretchTables(DenseTables):
    """The same, each stretch apart: ps by what bounds it [..., stretches, 3], equal stretches once.

    at: for each routed layer and for what follows the last, which of them it is. `per_layer_ps` is added to each routed
    layer's launches.
    """

    def __init__(self, dense: DenseCosts, per_layer_ps: int = 0) -> None:
        super().__init__(dense)
        places = {stretch: place for place, stretch in enumerate(self._times)}
        self.at = np.array([places[stretch] for stretch in dense.stretches])
        self._each_ps = np.array([per_layer_ps * (not last) for _, last, _ in self._times])  # the last one has the head

    def idle(self) -> np.ndarray:
        """A step without requests here: [stretches, 3]."""
        found: np.ndarray = self._summed({kind: np.zeros((1, 3)) for kind in self._kinds}, 0, 0)[0]
        return found

    def _summed(self, layers_s: dict[int, np.ndarray], tokens: int, sampled: int) -> np.ndarray:
        ends_s = self._row_s(EMBEDDING, tokens), self._row_s(HEAD, sampled)
        found = np.zeros((len(layers_s[self._kinds[0]]), len(self._times), 3), dtype=np.int64)
        for place, stretch in enumerate(self._times):
            found[:, place] = to_ps_array(stretch_s(stretch, layers_s, *ends_s))
        found[:, :, 0] += self._each_ps
        return found
