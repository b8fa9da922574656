"""TTFT and TPOT of rows of a serving table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from experiments.explain import ConfigError
from experiments.serving.costs import crowded, request_cost
from experiments.serving.disagg import apart
from experiments.serving.engines import Engine, engines
from experiments.serving.rows import NEEDED, Row, read_row
from simulator.serving import Load, answer

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("predicted_ttft_ms", "predicted_tpot_ms", "reason", "remark")


def predict(
    frame: pd.DataFrame, devices: Mapping[str, str] | None = None, constants: Mapping[str, Engine] | None = None
) -> pd.DataFrame:
    """`frame` with COLUMNS; a row without an answer says why in `reason`, and `remark` what to know of an answer.

    devices: name of a system -> path of its datasheet, beside the presets. constants: others than the shipped ones.
    Raises ConfigError if a column is missing that every row needs.
    """
    missing = [name for name in NEEDED if name not in frame]
    if missing:
        raise ConfigError(f"column '{missing[0]}' is missing; expected at least {', '.join(NEEDED)}.")
    known = engines() if constants is None else constants
    answers = np.full((len(frame), 2), np.nan)
    reasons, remarks = (np.full(len(frame), "", dtype=object) for _ in range(2))
    for i, fields in enumerate(frame.to_dict("records")):
        try:
            row = read_row({str(key): value for key, value in fields.items()})
            answers[i] = answer_row(row, known[row.backend], devices or {})
            remarks[i] = crowded(row, devices or {})
        except ValueError as error:  # every error of the packages is one
            reasons[i] = " ".join(str(error).split())
    out = frame.copy()
    for name, values in zip(COLUMNS, (answers[:, 0] * 1e3, answers[:, 1] * 1e3, reasons, remarks), strict=True):
        out[name] = values
    return out


def answer_row(row: Row, engine: Engine, devices: Mapping[str, str]) -> tuple[float, float]:
    """Seconds of TTFT and TPOT. Raises a ValueError, one sentence, if the row cannot be answered."""
    ttft_s, tpot_s = steady(row, engine, devices)
    return ttft_s * engine.factor(row.version, "ttft"), tpot_s * engine.factor(row.version, "tpot")


def steady(row: Row, engine: Engine, devices: Mapping[str, str]) -> tuple[float, float]:
    """The same without what is particular to a release."""
    framework = engine.framework(row)
    if row.mode == "agg":
        stages = row.layout.attention_dp * row.layout.pp
        found = answer(request_cost(row, devices), Load(max(row.requests / stages, 1.0), row.isl, row.osl), framework)
        return found.ttft_s, found.tpot_s
    return apart(row, engine, framework, devices)
