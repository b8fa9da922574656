"""The measured table of serving, and what is predicted of it: fitted rows and held-out ones told apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.explain import ConfigError
from experiments.serving.engines import Engine
from experiments.serving.fit import Measured, fit_engine
from experiments.serving.predict import predict
from experiments.serving.rows import BACKENDS, NEEDED, read_row
from experiments.serving.split import configuration, is_training

if TYPE_CHECKING:
    import pandas as pd

OTHERS = ("id", "mode", "precision", "batch_size", "attention_dp_size")
TARGETS = {"silicon_ttft_ms": "predicted_ttft_ms", "silicon_tpot_ms": "predicted_tpot_ms"}


def read_measured(path: Path) -> pd.DataFrame:
    """The table with the columns `configuration` and `training`. Raises ConfigError if it cannot be read."""
    import pandas as pd

    try:
        frame = pd.read_csv(path, low_memory=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: this table cannot be read: {str(error).splitlines()[0]}") from None
    missing = [name for name in (*NEEDED, *OTHERS, *TARGETS) if name not in frame]
    if missing:
        raise ConfigError(f"{path}: column '{missing[0]}' is missing; expected a table of measured serving.")
    try:
        rows = [read_row({str(name): value for name, value in row.items()}) for row in frame.to_dict("records")]
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    frame["configuration"] = [configuration(row) for row in rows]
    frame["training"] = [is_training(row) for row in rows]
    return frame


def fit_all(frame: pd.DataFrame) -> dict[str, Engine]:
    """Backend -> constants, fitted to the training rows of a table by `read_measured`."""
    chosen = frame[frame["training"]]
    return {backend: fit_one(chosen[chosen["backend"] == backend]) for backend in BACKENDS}


def fit_one(rows: pd.DataFrame) -> Engine:
    """Constants of one engine, fitted to all of these rows."""
    columns = zip(rows["silicon_ttft_ms"] / 1e3, rows["silicon_tpot_ms"] / 1e3, strict=True)
    asked = [read_row({str(key): value for key, value in fields.items()}) for fields in rows.to_dict("records")]
    return fit_engine([Measured(row, *times) for row, times in zip(asked, columns, strict=True)])


def beside(frame: pd.DataFrame, constants: dict[str, Engine]) -> pd.DataFrame:
    """The table with predictions and their relative errors `ttft_error` and `tpot_error` (predicted / measured − 1)."""
    out = predict(frame, constants=constants)
    for measured, predicted in TARGETS.items():
        out[f"{predicted.split('_')[1]}_error"] = out[predicted] / out[measured] - 1
    return out
