"""Errors on models and GPUs that no constant was fitted to: each is left out of the fit in turn.

What a model or GPU that is not in the measured table gets is nearer to these errors than to those of held-out
configurations, whose model, GPU and release were seen. Kernel models are the same ones throughout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.serving.engines import Engine
from experiments.serving.measured import beside, fit_one
from experiments.serving.split import SAME

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("model", "GPU")


def left_out(frame: pd.DataFrame, constants: dict[str, Engine]) -> pd.DataFrame:
    """Aggregated rows of a table by `read_measured`, predicted by constants fitted without their model, then without
    their GPU: `beside`, with the columns `kind` (KINDS) and `left_out`. constants: those of engines that the rest says
    nothing about, because all their fitted rows are left out or none.
    """
    import pandas as pd

    agg = frame[frame["mode"] == "agg"]
    model = agg["model_path"].str.split("/").str[-1].replace(SAME)
    parts = []
    for kind, names in zip(KINDS, (model, agg["system"]), strict=True):
        for name in sorted(names.unique()):
            mine, rest = agg[names == name], agg[names != name]
            tried: dict[str, Any] = dict(constants)
            for backend in sorted(mine["backend"].unique()):
                fitted, others = (part["training"] & (part["backend"] == backend) for part in (mine, rest))
                if fitted.any() and others.any():
                    tried[backend] = fit_one(rest[others])
            parts.append(beside(mine, tried).assign(kind=kind, left_out=name))
    return pd.concat(parts, ignore_index=True)
