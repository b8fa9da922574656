"""What lies where: weights, KV cache and buffers on the GPU and in host memory."""

from __future__ import annotations

from dataclasses import dataclass

from hwmodels.operators import ACTIVATION_BYTES
from simulator.model import ModelSpec


@dataclass(frozen=True)
class Rooms:
    """Sizes in bytes. dense, experts: of a layer as the model file stores it; resident: the share of every layer that
    stays on the GPU, where two buffers hold what is streamed of a layer; fixed: embeddings, head and last norm there.
    """

    dense: tuple[int, ...]
    experts: tuple[int, ...]
    fixed: int
    resident: float

    @property
    def dense_share(self) -> float:
        """Of a layer's bytes, those of its dense part: the largest share of all layers."""
        return max(dense / (dense + experts) for dense, experts in zip(self.dense, self.experts, strict=True))

    def streamed_bytes(self, layer: int) -> int:
        """What a layer streams."""
        total = self.dense[layer] + self.experts[layer]
        return total - int(total * self.resident)

    def page_bytes(self, layer: int, page: int, pages: int) -> int:
        """One of equal pages of what a layer streams; the first ones take what is left over."""
        whole, left = divmod(self.streamed_bytes(layer), pages)
        return whole + (page < left)

    def expert_bytes_on_gpu(self) -> int:
        """Room of experts: resident ones and two buffers."""
        return self._on_gpu(self.experts)

    def dense_bytes_on_gpu(self) -> int:
        """Room of all other weights."""
        return self.fixed + self._on_gpu(self.dense)

    def _on_gpu(self, layers: tuple[int, ...]) -> int:
        kept = sum(int(size * self.resident) for size in layers)
        return kept + min(2, len(layers)) * max(size - int(size * self.resident) for size in layers)


def activation_bytes(model: ModelSpec, tokens: int, qkv_values: int, output_values: int) -> int:
    """Activations of a micro-batch of so many tokens on the GPU: hidden states before and after a layer, their norm and
    the sum over experts; queries, keys, values and the attention's outputs; and for each of a token's experts its input
    and output and the values between its matrices. Nothing is freed in between (assumed).
    """
    wide = model.top_k * (2 * model.hidden + model.ffn_matrices * model.expert_intermediate)
    return tokens * (4 * model.hidden + qkv_values + output_values + wide) * ACTIVATION_BYTES


def resident_share(room_bytes: int, layers: list[int]) -> float:
    """The largest share of every layer for which there is room beside two buffers of the rest; below 0: not even for
    these."""
    total, buffers = sum(layers), min(2, len(layers)) * max(layers)
    if room_bytes >= total:
        return 1.0
    if total <= buffers:
        return 0.0 if room_bytes >= buffers else -1.0
    return (room_bytes - buffers) / (total - buffers)
