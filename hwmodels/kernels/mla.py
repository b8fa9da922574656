"""Multi-head latent attention (DeepSeek-V2, 2024) of TensorRT-LLM: prefill and decode; formulas in `attention`.

Prefill works on keys of 192 and values of 128 per head, expanded from the latent cache, so that every head has its own:
    FLOPs = 2 · pairs · heads · (192 + 128),  bytes = Q + O + expanded K + V in bf16 + the latent of 576 as cached
Decode absorbs the expansion into the query, so that all heads share one latent of 576 values (512 of them the value):
    FLOPs = 2 · length · heads · (576 + 512), bytes = length · 576 in the cache's dtype + Q + O
Inferred from the measurements: A100 and L40S take the same time for bf16 and fp8 caches (median ratio 1.00) and grow
with length as if a request were never divided, in blocks of 64 heads that run in whole waves; H100 and B200 take half
the time for fp8, B200 less than its bf16 peak allows, so they compute in fp8, and divide. Their datasheets tell them
apart (`Datasheet.asynchronous`). `num_heads` is that of one GPU; `tp_size` changes nothing beyond it.
"""

from __future__ import annotations

import numpy as np

from hwmodels.datasheet import Datasheet
from hwmodels.kernels.attention import DECODE, PREFILL, Attention, Decode, Prefill, _named, _number, peaks, widths
from hwmodels.kernels.base import Columns
from hwmodels.operators import Array

LATENT, ROTARY, KEY, VALUE = 512.0, 64.0, 192.0, 128.0
HEADS = 64.0  # that share a block where a request is not divided


class Mla(Attention):
    """What prefill and decode share."""

    dtypes = ("mla_dtype", "kv_cache_dtype")

    def group(self, rows: Columns) -> np.ndarray:
        kinds = np.full(len(rows["framework"]), "mla", dtype=object)
        return _named(rows["framework"], kinds, *(rows[name] for name in self.dtypes))


class Context(Mla):
    """Prefill attention over `isl` tokens."""

    name = table = "mla_context"
    sizes = ("batch_size", "isl", "num_heads")
    columns = ("framework", *sizes, "mla_dtype", "kv_cache_dtype")
    shape = sizes
    parameters = PREFILL

    def work(self, rows: Columns, sheet: Datasheet) -> Prefill:
        batch, length, heads = (_number(rows, name) for name in self.sizes)
        tokens = batch * length
        return Prefill(
            batch,
            length,
            length,
            heads,
            np.ones_like(length),
            np.full_like(length, (KEY + VALUE) / 2),
            peaks(rows["mla_dtype"], sheet),
            query_bytes=2 * tokens * heads * (KEY + VALUE),
            kv_bytes=tokens * (2 * heads * (KEY + VALUE) + (LATENT + ROTARY) * _cache(rows, sheet)),
        )


class Generation(Mla):
    """Decode attention over `step` cached tokens and the new one."""

    name = table = "mla_generation"
    sizes = ("batch_size", "step", "num_heads")
    columns = ("framework", *sizes, "mla_dtype", "kv_cache_dtype")
    shape = sizes
    parameters = DECODE

    def work(self, rows: Columns, sheet: Datasheet) -> Decode:
        batch, step, heads = (_number(rows, name) for name in self.sizes)
        blocks = np.ones_like(heads) if sheet.asynchronous else np.ceil(heads / HEADS)
        return Decode(
            units=batch * blocks,
            shared=heads / blocks,
            length=step + 1,
            dim=np.full_like(step, LATENT + ROTARY / 2),
            peak_flop_per_s=peaks(rows["kv_cache_dtype"] if sheet.asynchronous else rows["mla_dtype"], sheet),
            token_bytes=(LATENT + ROTARY) * _cache(rows, sheet),
            passes=blocks,
            query_bytes=2 * batch * heads * (2 * LATENT + ROTARY),
            divides=sheet.asynchronous,
        )


def _cache(rows: Columns, sheet: Datasheet) -> Array:
    """Bytes per value that the kernel reads from the cache."""
    if not sheet.asynchronous:
        return np.full(len(rows["kv_cache_dtype"]), 2.0)
    return widths(rows["kv_cache_dtype"])


KERNELS = (Context(), Generation())
