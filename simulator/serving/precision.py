"""In what numbers a serving engine keeps and multiplies a model's weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

from simulator.model import ModelError, ModelSpec

BITS = {
    "bfloat16": 16.0,
    "fp8": 8.0,
    "fp8_block": 8.0 + 32 / 128**2,
    "nvfp4": 4.0 + 8 / 16,
    "w4a16_mxfp4": 4.0 + 8 / 32,
    "int4_wo": 4.0 + 16 / 128,
    "int8_wo": 8.0,
}
"""Stored bits of a weight, scales included (block scales of fp8: fp32 per 128 x 128; of FP4: 8 bits per 16 or 32)."""

ARITHMETIC = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}
NAMES = {
    **{name: name for name in BITS},
    "bf16": "bfloat16",
    "float16": "bfloat16",
    "fp16": "bfloat16",
    "fp4": "nvfp4",
    "mxfp4": "w4a16_mxfp4",
    "int4": "int4_wo",
    "int8": "int8_wo",
    "w4a16": "int4_wo",
}
"""How a table may spell them."""


@dataclass(frozen=True)
class Precision:
    """dtypes as the measured kernels call them (BITS): of dense products, of routed experts, and of the KV cache."""

    gemm: str = "bfloat16"
    experts: str = "bfloat16"
    cache: str = "bfloat16"

    def of(self, spec: ModelSpec) -> ModelSpec:
        """The model stored like that; embedding, head, router and norms stay as they are."""
        gemm = BITS[self.gemm]
        return replace(
            spec,
            attention_bits=gemm,
            dense_bits=gemm,
            shared_bits=gemm,
            experts_bits=BITS[self.experts],
            linear_dtype=ARITHMETIC.get(self.gemm, "bf16"),
            kv_bits=8.0 if self.cache == "fp8" else 16.0,
        )

    @property
    def arithmetic(self) -> str:
        """dtype of the products of routed experts."""
        return ARITHMETIC.get(self.experts, "bf16")


def precision_of(spec: ModelSpec, gemm: str = "", experts: str = "", cache: str = "") -> Precision:
    """What a row says, by NAMES; where it says nothing, as the model is published.

    A model published with block scales (fp8) or in MXFP4 runs in these when a row says fp8 or a 4-bit format: engines
    load the published weights. Raises ModelError for a name that is not known.
    """
    found = []
    for part, said in (("attention", gemm), ("experts", experts)):
        published = _published(spec, part)
        name = NAMES.get(said.lower(), "") if said else published
        if not name:
            raise ModelError(f"precision '{said}' is not one of {', '.join(sorted(NAMES))}")
        if published == "fp8_block" and name == "fp8":
            name = published
        if _published(spec, "experts") == "w4a16_mxfp4":
            name = published
        found.append(name)
    narrow = BITS[found[0]] <= 8.5 or BITS[found[1]] <= 8.5
    cached = cache or ("fp8" if narrow else "bfloat16")
    return Precision(found[0], found[1], NAMES.get(cached.lower(), "bfloat16"))


def _published(spec: ModelSpec, part: str) -> str:
    bits = spec.bits(part if part != "experts" or spec.experts else "attention")
    return min(BITS, key=lambda name: (abs(BITS[name] - bits), name)) if bits < 12 else "bfloat16"
