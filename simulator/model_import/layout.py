"""The fields of a ModelSpec that most families share: widths, layers, which of them have experts or a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulator.model import ModelError
from simulator.model_import import parts
from simulator.model_import.config import HfConfig, regular, shortest_period

Fields = dict[str, Any]
Kinds = dict[str, parts.Kind]


def decoder(c: HfConfig, kinds: Kinds, names: Sequence[str] = (), *, tied: bool = False, **more: Any) -> Fields:
    """Layers, widths, tables and attention. `names`: the kind of each layer, if there are several. `tied`: what the
    family does if the file does not say. More fields are kept if they are not zero.
    """
    pattern = shortest_period(names or list(kinds))
    used = {name: kind for name, kind in kinds.items() if name in pattern}
    for key in ("mlp_bias", "use_bias"):
        if c.flag(key):
            c.remarks.append(f"biases of feed-forward blocks ({key}) are not counted")
    return {
        "layers": c.layers("num_hidden_layers", "n_layers"),
        "hidden": c.whole("hidden_size", "d_model", least=1),
        "vocab": c.whole("vocab_size", least=1),
        **({"tied_embeddings": True} if c.flag("tie_word_embeddings", tied) else {}),
        **{key: value for key, value in more.items() if value},
        "attention": used,
        **({"attention_pattern": pattern} if len(used) > 1 else {}),
    }


def dense(c: HfConfig, kinds: Kinds, names: Sequence[str] = (), **more: Any) -> Fields:
    """A model without experts."""
    width = c.whole("intermediate_size")
    fields = {"experts": 0, "top_k": 0, "expert_intermediate": 0, "dense_intermediate": width}
    return {**decoder(c, kinds, names, **more), **fields}


def moe(
    c: HfConfig,
    kinds: Kinds,
    names: Sequence[str] = (),
    *,
    count: tuple[str, ...] = ("num_experts", "num_local_experts", "n_routed_experts"),
    top_k: tuple[str, ...] = ("num_experts_per_tok",),
    width: tuple[str, ...] = ("moe_intermediate_size",),
    has_experts: Sequence[bool] | None = None,
    dense_width: tuple[str, ...] = ("intermediate_size",),
    shared: int = 0,
    **more: Any,
) -> Fields:
    """A model with routed experts in the layers of `has_experts` (default: as the usual fields say)."""
    experts = c.whole(*count)
    if experts == 0:
        return dense(c, kinds, names, **{key: value for key, value in more.items() if key != "router_bias"})
    base = decoder(c, kinds, names, **more)
    flags = sparse_layers(c, base["layers"]) if has_experts is None else has_experts
    chosen = c.whole(*top_k, least=1)
    if chosen > experts:
        raise ModelError(f"{c.where}: field '{top_k[0]}' must be at most the {experts} experts, got {chosen}.")
    fields: Fields = {
        "experts": experts,
        "top_k": chosen,
        "expert_intermediate": c.whole(*width, least=1),
        **({"shared_intermediate": shared} if shared else {}),
        **regular(c, flags),
    }
    if not all(flags):
        fields["dense_intermediate"] = c.whole(*dense_width)
    return {**base, **fields}


def sparse_layers(c: HfConfig, layers: int) -> list[bool]:
    """Which layers have experts: by a list, after the first dense ones, every so many-th, all but some."""
    if c.has("mlp_layer_types"):
        return [kind == "sparse" for kind in c.per_layer("mlp_layer_types", layers) or ()]
    if isinstance(c.fields.get("moe_layer_freq"), list):
        return [bool(flag) for flag in c.per_layer("moe_layer_freq", layers) or ()]
    first, every = c.whole("first_k_dense_replace", default=0), c.whole("moe_layer_freq", default=1, least=1)
    step, but = c.whole("decoder_sparse_step", default=1, least=1), c.entries("mlp_only_layers")
    if not all(type(layer) is int and 0 <= layer < layers for layer in but):
        raise ModelError(f"{c.where}: field 'mlp_only_layers' must name layers from 0 to {layers - 1}, got {but!r}.")
    return [i >= first and i % every == 0 and (i + 1) % step == 0 and i not in but for i in range(layers)]


def sliding(c: HfConfig, every: int = 0, **more: Any) -> tuple[Kinds, list[str]]:
    """Full and windowed attention: by layer_types, else every `every`-th layer is full (0: all as the window says)."""
    layers = c.layers("num_hidden_layers")
    width = parts.window(c)
    kinds = {"full": parts.gqa(c, **more), "sliding": parts.gqa(c, **more, window=width)}
    names = parts.layer_types(c, layers)
    if names is None:
        names = ["sliding" if width and (not every or (i + 1) % every) else "full" for i in range(layers)]
    return kinds, ["full" if width is None else name for name in names]


def qwen_sliding(c: HfConfig, **more: Any) -> tuple[Kinds, list[str]]:
    """Qwen's window is off unless use_sliding_window, and the first max_window_layers do not have it."""
    layers = c.layers("num_hidden_layers")
    if not c.flag("use_sliding_window"):
        return {"full": parts.gqa(c, **more)}, []
    kinds, names = sliding(c, **more)
    if not c.has("layer_types"):
        start = c.whole("max_window_layers", default=layers)
        names = [name if i >= start else "full" for i, name in enumerate(names)]
    return kinds, names


def stated(c: HfConfig, names: list[str] | None, key: str = "layer_types") -> list[str]:
    """The kind of each layer. Raises ModelError if the file does not say it."""
    if not names:
        raise ModelError(f"{c.where}: field '{key}' is missing.")
    return names
