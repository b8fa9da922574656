"""What makes a model description impossible."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from simulator.model_attention import attention_problems
from simulator.model_recurrent import RecurrentSpec, recurrent_problems

if TYPE_CHECKING:
    from simulator.model import ModelSpec

MOST_LAYERS = 10_000
"""Far above any model: a slip of the keyboard should not fill the memory."""


def problems(spec: "ModelSpec") -> Iterator[str]:
    """What is impossible about a model, each as a sentence without its full stop."""
    for key in ("name", "source"):
        if not getattr(spec, key).strip():
            yield f"field '{key}' must not be empty"
    dense = spec.experts == 0
    routed = ("experts", "top_k", "native_top_k", "expert_intermediate")
    for key in ("layers", "hidden", "vocab", *([] if dense else routed), "moe_every"):
        if getattr(spec, key) < 1:
            yield f"field '{key}' must be at least 1, got {getattr(spec, key)}"
    if spec.layers > MOST_LAYERS:
        yield f"field 'layers' must be at most {MOST_LAYERS}, got {spec.layers}"
    for key in (
        "encoder_layers",
        "first_dense_layers",
        "dense_intermediate",
        "shared_intermediate",
        "norms_per_layer",
    ):
        if getattr(spec, key) < 0:
            yield f"field '{key}' must not be negative, got {getattr(spec, key)}"
    for key in (*routed, "shared_intermediate", "first_dense_layers", "dense_branch"):
        if dense and getattr(spec, key):
            yield f"field '{key}' must be 0 or left out, as the model is dense (experts: 0), got {getattr(spec, key)}"
    for key in ("top_k", "native_top_k"):
        if getattr(spec, key) > spec.experts:
            yield f"field '{key}' must be at most experts ({spec.experts}), got {getattr(spec, key)}"
    if spec.ffn_matrices not in (2, 3):
        yield f"field 'ffn_matrices' must be 2 (plain) or 3 (gated), got {spec.ffn_matrices}"
    if spec.first_dense_layers >= max(spec.layers, 1):
        yield f"field 'first_dense_layers' must be below layers ({spec.layers}), got {spec.first_dense_layers}"
    if spec.encoder_layers > spec.layers:
        yield f"field 'encoder_layers' must be at most layers ({spec.layers}), got {spec.encoder_layers}"
    if not dense and not spec.moe_layers:
        yield f"field 'moe_every' leaves no MoE layer among {spec.layers} layers, got {spec.moe_every}"
    if not spec.dense_intermediate and (spec.dense_branch or len(spec.moe_layers) < spec.layers):
        yield "field 'dense_intermediate' must be above zero, as the model has dense feed-forward blocks"
    if spec.dense_intermediate and not spec.dense_branch and len(spec.moe_layers) == spec.layers:
        yield "field 'dense_intermediate' must be left out, as no layer has a dense feed-forward block"
    for key in ("default", "experts", "attention", "shared", "dense", "embedding", "head", "kv"):
        bits = spec.bits(key)
        if not 0 < bits <= 64:
            yield f"field '{key}_bits' must be above 0 and at most 64, got {bits}"
    allowed = ("fp32", "fp16", "bf16", "fp8", "fp4", "int8")
    for key in ("dtype", "linear_dtype"):
        if getattr(spec, key) not in (*allowed, *([""] if key == "linear_dtype" else [])):
            yield f"field '{key}' must be one of {', '.join(allowed)}, got '{getattr(spec, key)}'"
    for key in ("published_total_params", "published_active_params"):
        if getattr(spec, key) is not None and getattr(spec, key) <= 0:
            yield f"field '{key}' must be above zero, got {getattr(spec, key)}"
    if not spec.attention:
        yield "field 'attention' must describe at least one kind of attention"
    for name in spec.attention_pattern:
        if name not in spec.attention:
            yield f"field 'attention_pattern' must name kinds under attention, got '{name}'"
    if set(spec.attention) - set(spec.attention_pattern):
        yield f"field 'attention_pattern' must use every kind under attention ({', '.join(spec.attention)})"
    for name, kind in spec.attention.items():
        for problem in recurrent_problems(kind) if isinstance(kind, RecurrentSpec) else attention_problems(kind):
            yield f"field 'attention.{name}.{problem}"
