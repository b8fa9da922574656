"""Measured rows run event by event: a row as the overrides of a run, and what came out beside what was measured.

The runs take GEMMs, experts, attention and collectives from the kernel models, and no constant of an engine: nothing in
them was fitted to such rows. What engines add (host, sampling, network) is not in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from experiments.explain import ConfigError
from experiments.serving.engines import KERNELS, SCHEDULE, engines, has_draft_head
from experiments.serving.models import find_preset, read_preset
from experiments.serving.rows import Row, read_row
from experiments.sweep.runner import Progress
from experiments.validation.published.runs import Run, run_listed
from simulator.model import ModelSpec
from simulator.serving import precision_of

if TYPE_CHECKING:
    import pandas as pd

NODES = {"h100_sxm": "dgx_h100", "b200_sxm": "dgx_b200"}
TRACES = {
    "deepseek_r1": "deepseek_v3",
    "deepseek_v3": "deepseek_v3",
    "gpt_oss_120b": "gpt_oss_120b",
    "qwen3_235b_a22b_fp8": "qwen3_235b_a22b",
}
"""Preset of a model -> the stand-in that it is run on."""

MOST_TOKENS = 150_000  # decoded by a run, about: what takes longer is left out
ROUNDS = 2  # of requests that are measured, after one to warm up
SPREAD = 0.2  # lengths lie within so much of a row's, so that requests do not stay in step


def overrides_of(row: Row, folder: Path) -> tuple[str, ...]:
    """The run of a row, whose request list is written below `folder`. Raises ConfigError, one sentence, if there is
    none."""
    preset = find_preset(row.model)
    layout, requests = row.layout, round(row.requests)
    if row.system not in NODES:
        raise ConfigError(f"there is no node of '{row.system}' (there are: {', '.join(NODES)}).")
    if preset not in TRACES:
        raise ConfigError(f"no trace stands in for {preset}.")
    if row.mode != "agg" or layout.pp > 1 or layout.gpus > 8 or requests < layout.attention_dp:
        raise ConfigError("one instance of one stage on a node, and a request for each group, are what is run.")
    if has_draft_head(row.model) and engines()[row.backend].versions.get(row.version, {}).get("accepted", 1.0) > 1:
        raise ConfigError("this release guesses tokens ahead, which runs do not.")
    if SCHEDULE[row.backend]["apart"]:
        raise ConfigError("this engine gives prompts steps of their own, which runs do not.")
    if row.osl * requests * (ROUNDS + 1) > MOST_TOKENS:
        raise ConfigError("it decodes more tokens than are run.")
    model = read_preset(preset)
    stored = precision_of(model, row.gemm, row.experts).of(model)
    return (
        f"platform={NODES[row.system]}",
        f"platform.devices.gpu.engine={KERNELS[row.backend]}",
        f"model={preset}",
        *(
            f"++model.{field.name}={getattr(stored, field.name)}"
            for field in fields(ModelSpec)
            if getattr(stored, field.name) != getattr(model, field.name)
        ),
        f"trace={TRACES[preset]}",
        f"layout.gpus={layout.gpus}",
        *(f"layout.{name}={getattr(layout, name)}" for name in ("tp", "attention_dp", "moe_tp", "moe_ep")),
        "settings.collectives=calibrated",
        "settings.step_records=false",
        "reference=false",
        "policy/placement=popular",
        "policy/scheduling=continuous",
        f"policy.scheduling.max_batch={requests}",
        f"policy.scheduling.token_budget={round(SCHEDULE[row.backend]['budget']) * layout.attention_dp}",
        f"workload.file={_request_list(row, requests, folder)}",
        f"workload.warmup_requests={requests}",
        "workload.binding=resample",
        "workload.synthetic_prefill=true",
    )


def _request_list(row: Row, requests: int, folder: Path) -> Path:
    """A closed loop of as many clients as requests are under way."""

    def length(tokens: float) -> dict[str, str | int]:
        return {"kind": "uniform", "low": round(tokens * (1 - SPREAD)), "high": round(tokens * (1 + SPREAD))}

    path = folder / f"{requests}_{row.isl:.0f}_{row.osl:.0f}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    spec = {
        "requests": requests * (ROUNDS + 1),
        "arrivals": {"kind": "closed_loop", "clients": requests},
        "prompt_tokens": length(row.isl),
        "decode_tokens": length(row.osl),
    }
    path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    return path


def run_rows(
    frame: pd.DataFrame,
    folder: Path,
    most: int,
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> pd.DataFrame:
    """Of a table by `read_measured`, the aggregated rows of models with experts beside their runs: the columns
    `ours_ttft_ms`, `ours_tpot_ms`, `ttft_error`, `tpot_error`, and `reason` where a row is not run.

    At most `most` are run, told by a hash of what they ask for; of rows that ask for the same run the first one. Runs
    that `folder` holds are not repeated.
    """
    out = frame[(frame["mode"] == "agg") & frame["model_path"].map(_has_experts)].reset_index(drop=True)
    listed: dict[tuple[str, ...], int] = {}
    reasons = []
    for number, given in enumerate(out.to_dict("records")):
        try:
            overrides = overrides_of(read_row({str(key): value for key, value in given.items()}), folder / "workloads")
        except ValueError as error:
            reasons.append(str(error))
            continue
        reasons.append("the same run as another row's" if overrides in listed else "")
        listed.setdefault(overrides, number)
    out["reason"] = reasons
    out["ours_ttft_ms"] = out["ours_tpot_ms"] = np.nan
    chosen = sorted(listed, key=lambda overrides: sha256("\n".join(overrides).encode()).hexdigest())[:most]
    for overrides, number in listed.items():
        if overrides not in chosen:
            out.loc[number, "reason"] = "not drawn"
    runs, _ = run_listed(dict.fromkeys(chosen, "measured rows"), folder / "runs", workers, report)
    for overrides, run in runs.items():
        number = listed[overrides]
        if run.error is not None:
            out.loc[number, "reason"] = run.error
            continue
        out.loc[number, ["ours_ttft_ms", "ours_tpot_ms"]] = _times_ms(run)
    for name in ("ttft", "tpot"):
        out[f"{name}_error"] = out[f"ours_{name}_ms"] / out[f"silicon_{name}_ms"] - 1
    return out


def _times_ms(run: Run) -> tuple[float, float]:
    """Median TTFT and TPOT of the requests after the warm-up, in ms."""
    kept = ~np.array(run.requests["warmup"], dtype=bool)
    columns = (np.array(run.requests[name], dtype=float)[kept] for name in ("ttft_s", "tpot_s"))
    ttft_s, tpot_s = (float(np.median(column)) for column in columns)
    return 1e3 * ttft_s, 1e3 * tpot_s


def _has_experts(name: str) -> bool:
    try:
        return read_preset(find_preset(name)).experts > 0
    except ConfigError:
        return False
