"""Families that are dense, or an encoder and a decoder: what the fields of their config.json mean."""

from __future__ import annotations

from simulator.model import ModelError
from simulator.model_import import parts
from simulator.model_import.config import HfConfig, regular
from simulator.model_import.families import qwen_delta
from simulator.model_import.layout import Fields, dense, qwen_sliding, sliding


def llama(c: HfConfig) -> Fields:
    return dense(c, {"full": parts.gqa(c)})


def mistral(c: HfConfig) -> Fields:
    return dense(c, *sliding(c))


def qwen2(c: HfConfig) -> Fields:
    return dense(c, *qwen_sliding(c, qkv_bias=True))


def qwen3(c: HfConfig) -> Fields:
    return dense(c, *qwen_sliding(c, qk_norm="head"))


def qwen3_5(c: HfConfig) -> Fields:
    return dense(c, *qwen_delta(c))


def gemma(c: HfConfig) -> Fields:
    return dense(c, {"full": parts.gqa(c)}, tied=True)


def gemma2(c: HfConfig) -> Fields:
    return dense(c, *sliding(c, 2), tied=True, norms_per_layer=4)


def gemma3(c: HfConfig) -> Fields:
    every = c.whole("sliding_window_pattern", default=6, least=1)
    return dense(c, *sliding(c, every, qk_norm="head"), tied=True, norms_per_layer=4)


def seed_oss(c: HfConfig) -> Fields:
    kind = parts.gqa(c, bias=True)
    if not c.flag("attention_out_bias"):
        kind.pop("o_bias", None)
    return dense(c, {"full": kind})


def glm4(c: HfConfig) -> Fields:
    kind = parts.gqa(c, bias=True)
    kind.pop("o_bias", None)
    return dense(c, {"full": kind}, norms_per_layer=4)


def olmo2(c: HfConfig) -> Fields:
    return dense(c, {"full": parts.gqa(c, qk_norm="full")})


def olmo3(c: HfConfig) -> Fields:
    return dense(c, *sliding(c, 4, qk_norm="full"))


def hunyuan_dense(c: HfConfig) -> Fields:
    return dense(c, {"full": parts.gqa(c, qk_norm="head")})


def _encoder_decoder(c: HfConfig, encoder: list[bool], decoder: list[bool], kind: parts.Kind, width: int) -> Fields:
    """Layers of the encoder first; `encoder`, `decoder`: which layers have experts."""
    c.remarks.append("expert capacity is not modelled: no token is dropped")
    return {
        "layers": len(encoder) + len(decoder),
        "encoder_layers": len(encoder),
        "hidden": c.whole("d_model"),
        "vocab": c.whole("vocab_size"),
        **({"tied_embeddings": True} if c.flag("tie_word_embeddings", True) else {}),
        "experts": c.whole("num_experts"),
        "expert_intermediate": width,
        "dense_intermediate": width,
        **regular(c, encoder + decoder),
        "ffn_matrices": 2,
        "attention": {"full": kind},
    }


def switch_transformers(c: HfConfig) -> Fields:
    heads = c.whole("num_heads", least=1)
    c.remarks.append("tables of relative positions are not counted")

    def sparse(layers: int, with_experts: int) -> list[bool]:
        step = layers // with_experts if with_experts else 0
        return [step == 1 or (step > 1 and i % step == 1) for i in range(layers)]

    encoder = sparse(c.layers("num_layers"), c.whole("num_sparse_encoder_layers"))
    decoder = sparse(c.layers("num_decoder_layers", "num_layers"), c.whole("num_sparse_decoder_layers"))
    kind = {"heads": heads, "kv_heads": heads, "head_dim": c.whole("d_kv")}
    return {**_encoder_decoder(c, encoder, decoder, kind, c.whole("d_ff")), "top_k": 1}


def nllb_moe(c: HfConfig) -> Fields:
    heads, width = c.whole("encoder_attention_heads", least=1), c.whole("encoder_ffn_dim")
    for key, other in (("decoder_attention_heads", heads), ("decoder_ffn_dim", width)):
        if c.whole(key) != other:
            raise ModelError(f"{c.where}: field '{key}' must be {other}, as in the encoder, got {c.whole(key)}.")
    c.remarks.append("biases of dense feed-forward blocks and norms are not counted")

    def sparse(side: str) -> list[bool]:
        step = c.whole(f"{side}_sparse_step")
        return [step > 0 and (i + 1) % step == 0 for i in range(c.layers(f"{side}_layers"))]

    kind = {
        "heads": heads,
        "kv_heads": heads,
        "head_dim": c.whole("d_model") // heads,
        "qkv_bias": True,
        "o_bias": True,
    }
    fields = _encoder_decoder(c, sparse("encoder"), sparse("decoder"), kind, width)
    return {**fields, "top_k": 2, "expert_bias": True}
