"""Names of models: from what a file records to the canonical name, and what the model was trained with."""

from __future__ import annotations

import re

from traces.schema import TraceError

# (experts per routed layer, experts per token) of each known model, from its config.json on Hugging Face:
# num_experts / num_local_experts / n_routed_experts and num_experts_per_tok (Gemma: top_k_experts; Switch
# routes to one expert by design).
KNOWN_MODELS = {
    "deepseek_v2_lite": (64, 6),
    "deepseek_v3": (256, 8),
    "gemma_4_26b_a4b": (128, 8),
    "gpt_oss_120b": (128, 4),
    "gpt_oss_20b": (32, 4),
    "granite_3_0_1b_a400m": (32, 8),
    "mixtral_8x7b": (8, 2),
    "olmoe_1b_7b": (64, 8),
    "qwen3_30b_a3b": (128, 8),
    "switch_base_8": (8, 1),
}


def canonical_name(recorded: str) -> str:
    """Return the canonical name of a known model that occurs in `recorded`, else `recorded` itself.

    ``/data/Qwen3-30B-A3B-Q4_K_M.gguf`` gives ``qwen3_30b_a3b``: case and separators do not count.
    """
    plain = re.sub(r"[^a-z0-9]+", "_", recorded.lower())
    for name in KNOWN_MODELS:
        if f"_{name}_" in f"_{plain}_":
            return name
    return recorded


def resolve_native_top_k(model: str, given: int | None, recorded: int | None, top_k: int, file: str) -> int:
    """Return the top-k the model was trained with: as `given`, else `recorded`, else known, else `top_k`.

    Raises TraceError if more experts were recorded per token than the model selects.
    """
    known = KNOWN_MODELS[model][1] if model in KNOWN_MODELS else None
    native = next((value for value in (given, recorded, known) if value is not None), top_k)
    if top_k > native:
        raise TraceError(f"{file}: field 'top_k' must be at most the model's native top-k {native}, not {top_k}.")
    return native


def resolve_num_experts(model: str, given: int | None, recorded: int | None, file: str) -> int:
    """Return the experts per routed layer: as `recorded`, else `given`, else known.

    It is never guessed from the ids, since the last expert may not occur. Raises TraceError if nothing says
    it, or `given` contradicts `recorded`.
    """
    if recorded is not None and given is not None and recorded != given:
        raise TraceError(f"{file}: num_experts is given as {given}, but the file says {recorded}.")
    known = KNOWN_MODELS[model][0] if model in KNOWN_MODELS else None
    number = next((value for value in (recorded, given, known) if value is not None), None)
    if number is None:
        raise TraceError(
            f"{file}: the file does not say how many experts a layer has, so num_experts must be given, or one of "
            f"the models {', '.join(KNOWN_MODELS)}."
        )
    return number
