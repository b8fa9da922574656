"""A model's operators under a device's roofline (Williams, Waterman and Patterson, CACM 2009)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.explain import ConfigError
from experiments.figures.style import COLUMN_IN, figure, legend_shape, save, stroke
from experiments.figures.table import checked
from hwmodels import Device, Work, time_s
from hwmodels.roofline import peak_flop_per_s
from simulator.engine import PS_PER_S
from simulator.runtime.costs import ExpertCosts

if TYPE_CHECKING:
    import pandas as pd

    from simulator.model import ModelSpec

_GIGA = 1e9


def roofline_points(
    model: ModelSpec, device: Device, tokens: Sequence[int] = (1, 16, 256), kv_tokens: int = 1024, phase: str = "decode"
) -> pd.DataFrame:
    """A row for each kind of operator and each of `tokens`, at the speed which the device's model predicts.

    phase "decode": that many sequences of `kv_tokens` tokens each, one new token per sequence; "prefill": a prompt
    of that many tokens. The routed experts of a layer run as one launch, as in the simulator, and share the tokens
    evenly: of E experts with top k, n tokens use E (1 - (1 - k/E)^n) on average. Columns: operator, dtype, tokens,
    flops, size_bytes, intensity_flop_per_byte, time_s (with launches), flop_per_s.
    """
    import pandas as pd

    rows = []
    for n in tokens:
        for name, works, duration_s in _operators(model, device, n, kv_tokens if phase == "decode" else n, phase):
            flops = float(sum(work.flops.sum() for work in works))
            size_bytes = float(sum(work.size_bytes.sum() for work in works))
            rows.append(
                {
                    "operator": name,
                    "dtype": works[0].dtype,
                    "tokens": n,
                    "flops": flops,
                    "size_bytes": size_bytes,
                    "intensity_flop_per_byte": flops / size_bytes,
                    "time_s": duration_s,
                    "flop_per_s": flops / duration_s,
                }
            )
    return pd.DataFrame(rows)


def _operators(
    model: ModelSpec, device: Device, tokens: int, kv_tokens: int, phase: str
) -> Iterator[tuple[str, list[Work], float]]:
    """One of each kind, with its kernels and seconds: of every kind of attention, and of the other parts that of the
    first layer which has it."""
    many = len(set(model.attention_pattern)) > 1
    seen: set[str] = set()
    for layer in range(model.encoder_layers % model.layers, model.layers):  # the decoder, if there is one
        kind = model.attention_pattern[layer % len(model.attention_pattern)]
        works = model.layer_dense_work(layer, tokens, kv_tokens, phase)
        for name, group in groupby(works, lambda work: work.name):
            label = f"{name} ({kind})" if many and name.endswith("attention") else name
            if label not in seen:
                seen.add(label)
                mine = list(group)
                yield label, mine, float(sum(time_s(work, device) for work in mine))
    used = round(model.experts * (1.0 - (1.0 - model.top_k / model.experts) ** tokens))
    share, rest = divmod(tokens * model.top_k, used)
    counts = [share + (number < rest) for number in range(used)]
    duration_s = ExpertCosts(model, [model.expert_bytes], device).together(0, counts)[0] / PS_PER_S
    yield "routed experts", [model.expert_work(np.array(counts))], duration_s
    head = model.head_work(tokens if phase == "decode" else 1)[-1]
    yield "LM head", [head], float(time_s(head, device))


def roofline(points: pd.DataFrame, device: Device, stem: Path, *, width_in: float = COLUMN_IN) -> list[Path]:
    """Operators at their arithmetic intensity and speed, under the peaks of memory and arithmetic of `device`.

    points: as from `roofline_points`; the marker says the operator, its size the number of tokens. There is a roof
    for each peak that one of the dtypes uses; the ridge, from which arithmetic limits, is written beside it.
    Returns the files written. Raises ConfigError for a table that does not fit, PlatformError for a device that does
    not compute.
    """
    rows = checked(points, stem, ["operator", "dtype"], ["tokens", "intensity_flop_per_byte", "flop_per_s"])
    rows = rows[(rows["intensity_flop_per_byte"] > 0) & (rows["flop_per_s"] > 0)]
    if not len(rows):
        raise ConfigError(f"figure {stem.name}: no operator has an intensity and a speed above 0.")
    bandwidth = device.memory_read_bytes_per_s
    peaks: dict[float, list[str]] = {}
    for dtype in dict.fromkeys(rows["dtype"]):
        peaks.setdefault(peak_flop_per_s(device, dtype), []).append(dtype)
    counts = sorted(rows["tokens"].unique())
    sizes = dict(zip(counts, np.linspace(3.0, 7.0, len(counts)) if len(counts) > 1 else [5.0], strict=True))
    names = list(dict.fromkeys(rows["operator"]))
    several = len(counts) > 1
    labels = [*names, *(_tokens(count) for count in counts if several)]
    columns, legend_in = legend_shape(labels, width_in)
    low = min(rows["intensity_flop_per_byte"].min() / 2, 0.5)
    high = max(rows["intensity_flop_per_byte"].max() * 2, 4 * max(peaks) / bandwidth)
    with figure(width_in, 2.35 + legend_in) as drawing:
        axes = drawing.subplots()
        axes.set(xscale="log", yscale="log", xlim=(low, high))
        for peak, dtypes in peaks.items():
            axes.plot([low, peak / bandwidth, high], np.array([low * bandwidth, peak, peak]) / _GIGA, color="black")
            note = f"{', '.join(dtypes)}: {peak / 1e12:.3g} TFLOP/s, ridge at {peak / bandwidth:.3g} FLOP/byte"
            above = peak == max(peaks)
            look: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "bottom" if above else "top"}
            axes.annotate(note, (high, peak / _GIGA), (0, 2 if above else -2), fontsize=6, **look)
            axes.plot([peak / bandwidth] * 2, [1e-12, peak / _GIGA], color="#707070", linestyle=":", linewidth=0.8)
        bottom = min(rows["flop_per_s"].min() / 2, low * bandwidth) / _GIGA
        axes.set_ylim(bottom, 3 * max(peaks) / _GIGA)
        for number, name in enumerate(names):
            mine = rows[rows["operator"] == name].sort_values("tokens", kind="stable")
            look = {**stroke(number), "linestyle": "none", "markeredgecolor": "black", "markeredgewidth": 0.4}
            x, y = mine["intensity_flop_per_byte"], mine["flop_per_s"] / _GIGA
            axes.plot(x, y, color=look["color"], linewidth=0.5)
            for left, up, count in zip(x, y, mine["tokens"], strict=True):
                axes.plot([left], [up], **{**look, "markersize": sizes[count], "zorder": 3 + 1 / sizes[count]})
            axes.plot([], [], label=name, **look)
        for count in counts if several else ():
            axes.plot(
                [],
                [],
                color="white",
                marker="o",
                linestyle="none",
                markeredgecolor="black",
                markersize=sizes[count],
                label=_tokens(count),
            )
        middle = np.sqrt(low * min(peaks) / bandwidth)
        angle = np.degrees(np.arctan2(bandwidth / _GIGA, 1.0))
        axes.text(
            middle,
            1.15 * middle * bandwidth / _GIGA,
            f"{bandwidth / _GIGA:.4g} GB/s",
            fontsize=6,
            ha="center",
            va="bottom",
            rotation=angle,
            rotation_mode="anchor",
            transform_rotates_text=True,
        )
        axes.set_xlabel("arithmetic intensity (FLOP/byte)")
        axes.set_ylabel("performance (GFLOP/s)")
        drawing.legend(loc="outside upper center", ncols=columns, handlelength=1.2)
        return save(drawing, stem)


def _tokens(count: float) -> str:
    return f"{count:g} token" if count == 1 else f"{count:g} tokens"
