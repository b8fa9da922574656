"""Names of models: from what a file records to the canonical name, and what the model was trained with."""

from __future__ import annotations

import re

from traces.schema import TraceError

# Experts per token of each known model: num_experts_per_tok of its config.json on Hugging Face (Gemma:
# top_k_experts; Switch routes to one expert by design).
NATIVE_TOP_K = {
    "deepseek_v2_lite": 6,
    "deepseek_v3": 8,
    "gemma_4_26b_a4b": 8,
    "gpt_oss_120b": 4,
    "gpt_oss_20b": 4,
    "mixtral_8x7b": 2,
    "olmoe_1b_7b": 8,
    "qwen3_30b_a3b": 8,
    "switch_base_8": 1,
}


def canonical_name(recorded: str) -> str:
    """Return the canonical name of a known model that occurs in `recorded`, else `recorded` itself.

    ``/data/Qwen3-30B-A3B-Q4_K_M.gguf`` gives ``qwen3_30b_a3b``: case and separators do not count.
    """
    plain = re.sub(r"[^a-z0-9]+", "_", recorded.lower())
    for name in NATIVE_TOP_K:
        if f"_{name}_" in f"_{plain}_":
            return name
    return recorded


def resolve_native_top_k(model: str, given: int | None, recorded: int | None, top_k: int, file: str) -> int:
    """Return the top-k the model was trained with: as `given`, else `recorded`, else known, else `top_k`.

    Raises TraceError if more experts were recorded per token than the model selects.
    """
    native = next((value for value in (given, recorded, NATIVE_TOP_K.get(model)) if value is not None), top_k)
    if top_k > native:
        raise TraceError(f"{file}: field 'top_k' must be at most the model's native top-k {native}, not {top_k}.")
    return native
