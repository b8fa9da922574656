"""What a row of a serving table asks for: model, GPU, engine, precision, layout, lengths, load.

Columns as in aiconfigurator's table of measured points: `backend` (vllm, sglang, trtllm), `model_path`, `system`,
`isl`, `osl`, and for `mode` agg `batch_size` (requests under way for each group of attention). Others may be missing or
empty: `backend_version`, `precision` (where the next two are empty), `gemm_quant_mode`, `moe_quant_mode`, `tp_size`,
`pp_size`, `attention_dp_size`, `moe_tp_size`, `moe_ep_size`, and for `mode` disagg the sizes with `prefill_` and
`decode_` before them, and `decode_batch_size`.

Such a table writes a benchmark's "TP t, EP t", one set of t GPUs, as t² GPUs where it also gives `attention_dp_size`:
tp 64, moe_tp 8 and moe_ep 8 are 8 GPUs, and so are tp 8, attention_dp 8, moe_ep 64. `layout_of` reads them as such.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from experiments.explain import ConfigError
from simulator.serving import Layout

BACKENDS = ("vllm", "sglang", "trtllm")
NAMES = {"tensorrt_llm": "trtllm", "tensorrtllm": "trtllm", "trt_llm": "trtllm", "trt": "trtllm"}
NEEDED = ("backend", "model_path", "system", "isl", "osl")

LEAST_BATCH = 1e-3  # requests of a group of attention, which may be fewer than one
MOST = 1e7  # of any number in a row: ten times the longest context that is offered


@dataclass(frozen=True)
class Row:
    """One asked row. requests: of the whole instance, 0 if a disaggregated row does not say.

    layout is that of decode, prompt_layout that of prefill: the same unless `mode` is disagg.
    """

    model: str
    system: str
    backend: str
    version: str
    gemm: str
    experts: str
    mode: str
    isl: float
    osl: float
    requests: float
    layout: Layout
    prompt_layout: Layout


def read_row(row: Mapping[str, Any]) -> Row:
    """The row. Raises ConfigError, one sentence, naming the column and what was expected."""
    mode = _text(row, "mode") or "agg"
    if mode not in ("agg", "disagg"):
        raise ConfigError(f"column 'mode' must be agg or disagg, got '{mode}'.")
    backend = re.sub(r"[^a-z]+", "_", _text(row, "backend").lower()).strip("_")
    backend = NAMES.get(backend, backend)
    if backend not in BACKENDS:
        raise ConfigError(f"column 'backend' must be one of {', '.join(BACKENDS)}, got '{_text(row, 'backend')}'.")
    for name in ("model_path", "system"):
        if not _text(row, name):
            raise ConfigError(f"column '{name}' is empty; expected a name.")
    if mode == "agg":
        layout = prompt_layout = layout_of(row, "")
        groups = _number(row, "attention_dp_size", 1.0)  # as the table has it: batch_size is of one of these
        requests = _number(row, "batch_size", None) * groups
    else:
        layout, prompt_layout = layout_of(row, "decode_"), layout_of(row, "prefill_")
        requests = _number(row, "decode_batch_size", 0.0) * layout.attention_dp
    return Row(
        model=_text(row, "model_path"),
        system=_text(row, "system"),
        backend=backend,
        version=_text(row, "backend_version"),
        gemm=_text(row, "gemm_quant_mode") or _text(row, "precision"),
        experts=_text(row, "moe_quant_mode") or _text(row, "precision"),
        mode=mode,
        isl=_number(row, "isl", None),
        osl=_number(row, "osl", None),
        requests=requests,
        layout=layout,
        prompt_layout=prompt_layout,
    )


def layout_of(row: Mapping[str, Any], before: str) -> Layout:
    """The layout in the columns that begin with `before`; sizes that are missing or 0 are those that fit the others."""
    tp, groups, moe_tp, moe_ep, stages = (
        round(_number(row, f"{before}{name}", 1.0) or 1)
        for name in ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size", "pp_size")
    )
    gpus = tp * groups
    side = isqrt(gpus)
    said = _number(row, f"{before}attention_dp_size", 0.0) > 0
    if said and side > 1 and side * side == gpus and (moe_tp == moe_ep == side or (tp == groups and moe_ep == gpus)):
        return Layout(side, 1, 1, side, stages) if groups == 1 else Layout(1, side, 1, side, stages)
    if moe_tp * moe_ep != gpus and not gpus % moe_ep:
        moe_tp = gpus // moe_ep
    return Layout(tp, groups, moe_tp, moe_ep, stages)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return "" if value is None or value != value else str(value).strip()


def _number(row: Mapping[str, Any], name: str, default: float | None) -> float:
    text = _text(row, name)
    if not text and default is not None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    least = 0.0 if default is not None else LEAST_BATCH if name == "batch_size" else 1.0
    whole = name.endswith("_size") and "batch" not in name
    if not (least <= value <= MOST) or (whole and value % 1):
        kind = "whole number" if whole else "number"
        raise ConfigError(f"column '{name}' must be a {kind} from {least:g} to {MOST:,.0f}, got '{text}'.")
    return value
