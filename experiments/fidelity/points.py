"""Every measured row with its prediction by a fit that never saw its shape, and its place under the roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hwmodels.calibrate import judged
from hwmodels.kernels import Communication, kernels

if TYPE_CHECKING:
    import pandas as pd


def points(contents: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each measured row of the fitted files, as from `hwmodels.calibrate.read`. Nothing is fitted.

    Columns: kernel, group, device, measured_s, predicted_s (held out), flops, size_bytes (zero flops for communication,
    whose bytes cross links), peak_flop_per_s (of the row's dtype; NaN without flops), tokens_per_expert (mean over the
    experts of the model; NaN for others than `moe`). Raises PlatformError for files of other models or measurements.
    """
    import pandas as pd

    parts = []
    for content in contents:
        kernel = kernels()[content["kernel"]]
        for group, sample, ratio in judged(content):
            rows, sheet = sample.rows, sample.sheet
            compute_s, size_bytes = kernel.demand(rows, sheet)
            # FLOPs are what a device of one FLOP/s would take seconds for
            flops, _ = kernel.demand(rows, replace(sheet, peak_flop_per_s=dict.fromkeys(sheet.peak_flop_per_s, 1.0)))
            silent = np.full(len(sample), np.nan)
            experts = rows["num_tokens"] * rows["topk"] / rows["num_experts"] if kernel.table == "moe" else silent
            part = {
                "kernel": kernel.name,
                "group": group,
                "device": sheet.name,
                "measured_s": sample.measured_s,
                "predicted_s": sample.measured_s * ratio,
                "flops": flops,
                "size_bytes": size_bytes,
                "peak_flop_per_s": silent if isinstance(kernel, Communication) else flops / compute_s,
                "tokens_per_expert": experts,
            }
            parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)
