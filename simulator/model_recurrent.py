"""One kind of layer with a state of fixed size instead of a KV cache, in numbers: weights, state, work.

Linear attention, gated delta rule, state-space models (Mamba) and short convolutions alike: a projection of the hidden
vector, a causal convolution over a few tokens, a state that each token updates and reads, and an output projection.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from omegaconf import MISSING

from hwmodels import Work, operators
from hwmodels.operators import Number

_STATE_BITS = 32.0
_CONV_BITS = 16.0


@dataclass(frozen=True)
class RecurrentSpec:
    """One kind of layer with a recurrent state.

    state_values      numbers of the state of one sequence, kept in fp32; 0: the convolution is all there is
    state_operations  operations per number of the state and token. Decay, outer product of key and value, and reading
                      with the query are 1 + 2 + 2 (linear attention, Mamba-2); 7 where the delta rule reads with the
                      key too, or where each number has a decay of its own (Mamba-1)
    in_width          outputs of all projections of the hidden vector, gates included
    out_width         inputs of the output projection
    inner_projections further products: n and k of the first, of the next, ...
    conv_channels, conv_kernel  causal convolution per channel; its last inputs are kept in 16 bits
    other_params      what is not in a product or in the convolution's kernel: decays, biases, norms
    """

    state_values: int = MISSING
    in_width: int = MISSING
    out_width: int = MISSING
    state_operations: int = 5
    inner_projections: list[int] = field(default_factory=list)
    conv_channels: int = 0
    conv_kernel: int = 0
    other_params: int = 0

    window = None
    cached_values = 0
    """Nothing is kept per token."""

    @property
    def output_width(self) -> int:
        """Inputs of the output projection."""
        return self.out_width

    @property
    def state_bytes(self) -> float:
        """Bytes kept per sequence: state, and the inputs that the convolution looks back on."""
        conv = self.conv_channels * max(self.conv_kernel - 1, 0)
        return (self.state_values * _STATE_BITS + conv * _CONV_BITS) / 8

    def projections(self, hidden: int) -> list[tuple[int, int]]:
        """(n, k) of the products before the recurrence."""
        inner = self.inner_projections
        return [(self.in_width, hidden), *zip(inner[::2], inner[1::2], strict=True)]

    def idle_params(self, hidden: int) -> int:
        """Weights that a token is not multiplied with: none."""
        return 0

    def params(self, hidden: int) -> int:
        """All parameters."""
        products = sum(n * k for n, k in self.projections(hidden)) + self.out_width * hidden
        return products + self.conv_channels * self.conv_kernel + self.other_params

    def norm_params(self) -> int:
        """Norms are counted in other_params."""
        return 0

    def works(
        self, tokens: Number, kv_len: Number, phase: str, causal: bool, kv_bits: float, dtype: str, name: str
    ) -> list[Work]:
        """What runs between the projections, as one kernel."""
        return [self.work(tokens, kv_len, phase, causal, kv_bits, dtype, name)]

    def work(
        self, tokens: Number, kv_len: Number, phase: str, causal: bool, kv_bits: float, dtype: str, name: str
    ) -> Work:
        """Convolution and recurrence. Each sequence reads and writes its state once, however many tokens it has: the
        chunked forms of a prefill do so too (and a few times more operations, in matrix products).
        """
        t = np.asarray(tokens, dtype=np.float64)
        sequences = t if phase == "decode" else np.minimum(t, 1.0)
        flops = t * (self.state_operations * self.state_values + 2 * self.conv_kernel * self.conv_channels)
        weights = np.where(t > 0, (self.conv_channels * self.conv_kernel + self.other_params) * 2.0, 0.0)
        activations = t * (self.in_width + self.out_width) * operators.ACTIVATION_BYTES
        size = 2 * self.state_bytes * sequences + weights + activations
        flops, size = np.broadcast_arrays(flops + 0.0 * np.asarray(kv_len), size)
        one = np.minimum(t, 1.0) if phase == "decode" else t
        shape: dict[str, Number] = {"tokens": one, "kv_len": one, "kv_heads": 0, "head_dim": 0}  # none was measured
        return Work("attention", dtype, flops, size, name, shape)


def recurrent_problems(kind: RecurrentSpec) -> Iterator[str]:
    """What is impossible about a kind of layer: the field, a quote, and what was expected."""
    for key in ("in_width", "out_width"):
        if getattr(kind, key) < 1:
            yield f"{key}' must be at least 1, got {getattr(kind, key)}"
    for key in ("state_values", "state_operations", "conv_channels", "conv_kernel", "other_params"):
        if getattr(kind, key) < 0:
            yield f"{key}' must not be negative, got {getattr(kind, key)}"
    if (kind.conv_channels > 0) != (kind.conv_kernel > 0):
        yield f"conv_kernel' must be given together with conv_channels ({kind.conv_channels}), got {kind.conv_kernel}"
    if len(kind.inner_projections) % 2 or min(kind.inner_projections, default=1) < 1:
        yield f"inner_projections' must be pairs of widths of at least 1, got {kind.inner_projections}"
