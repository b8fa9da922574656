"""Work and memory of the kernels around the experts, as closed forms.

T tokens of a worker, E experts, k choices of a token, C capacity, h hidden size. What fairseq does is read from
fairseq/modules/moe/top2gate.py and moe_layer.py (branch moe): masks [T, E, C] are built in fp32, summed, turned into a
Boolean and a half-precision mask, and rows are moved by dense products with these.
"""

from __future__ import annotations

from hwmodels import Work, operators
from hwmodels.operators import ACTIVATION_BYTES

FP32, HALF, BOOL, INDEX = 4, 2, 1, 8  # bytes


def mask_work(tokens: int, experts: int, capacity: int, top_k: int, dtype: str) -> Work:
    """Building the masks: k outer products are written in fp32, read and summed, compared, and both masks are cast.

    bytes = T*E*C * (4k + [k > 1] * (4k + 4) + (4 + 1) + (4 + 2) + (1 + 2)): 34 per element for k = 2.
    """
    elements = tokens * experts * capacity
    added = FP32 * top_k + FP32 if top_k > 1 else 0
    size = FP32 * top_k + added + (FP32 + BOOL) + (FP32 + HALF) + (BOOL + HALF)
    return _moved(elements * (2 * top_k - 1), elements * size, dtype, "gating masks")


def einsum_works(tokens: int, experts: int, capacity: int, hidden: int, dtype: str) -> tuple[Work, Work]:
    """The dense products "sec,sm->ecm" before the experts and "sec,ecm->sm" behind them: 2*T*E*C*h operations each."""
    rows = experts * capacity
    into = operators.gemm(rows, hidden, tokens, 8 * ACTIVATION_BYTES, dtype, "dispatch einsum")
    back = operators.gemm(tokens, hidden, rows, 8 * ACTIVATION_BYTES, dtype, "combine einsum")
    return into, back


def scatter_works(tokens: int, rows: int, top_k: int, hidden: int, dtype: str) -> tuple[Work, Work]:
    """Moving rows by index: k*T rows are read and `rows` written (padding as zeros); behind the experts k*T rows are
    read, weighted and summed into T."""
    read, wrote = top_k * tokens * hidden * ACTIVATION_BYTES, rows * hidden * ACTIVATION_BYTES
    into = _moved(0.0, read + wrote, dtype, "dispatch rows")
    back = _moved(2.0 * top_k * tokens * hidden, read + tokens * hidden * ACTIVATION_BYTES, dtype, "combine rows")
    return into, back


def sort_work(tokens: int, experts: int, top_k: int, dtype: str) -> Work:
    """Sorting k*T expert numbers of 8 bytes (four passes of a radix sort, keys and positions read and written) and
    counting them."""
    choices = top_k * tokens
    return _moved(0.0, choices * INDEX * (4 * 4 + 1) + experts * INDEX, dtype, "argsort and count")


def static_bytes(
    tokens: int, experts: int, capacity: int, top_k: int, hidden: int, width: int, workers: int, einsum: bool = True
) -> int:
    """Peak of what the padded path holds at once on a worker: the larger of

    gating   k masks and their sum in fp32 (top2gating, with einsum alone)
    experts  both masks in half precision, the rows that came, every expert's output and their concatenation
             (moe_layer.py), and one expert's intermediate rows before and after its activation
    """
    mask = tokens * experts * capacity if einsum else 0
    gating = FP32 * mask * (top_k + (top_k > 1))
    padded = experts * capacity * hidden * ACTIVATION_BYTES
    one = 2 * workers * capacity * width * ACTIVATION_BYTES
    return max(gating, 2 * HALF * mask + 3 * padded + one)


def dynamic_bytes(tokens: int, top_k: int, hidden: int, width: int, local: int) -> int:
    """The same with exact sizes: the sorted rows, those that came (as many, on the mean worker), outputs and their
    concatenation, and the intermediate rows of the mean one of `local` experts."""
    rows = top_k * tokens
    return 4 * rows * hidden * ACTIVATION_BYTES + 2 * -(-rows // local) * width * ACTIVATION_BYTES


def _moved(flops: float, size_bytes: float, dtype: str, name: str) -> Work:
    """Work of a kernel that streams through memory."""
    one = operators.elementwise(1, 0, size_bytes, dtype, name)
    return Work(one.kind, dtype, one.flops + flops, one.size_bytes, name)
