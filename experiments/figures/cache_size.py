"""Hit rate and time per token against the size of the expert cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.figures.style import COLOURS, MARKERS, PAGE_IN, REFERENCE, figure, save

if TYPE_CHECKING:
    import pandas as pd


def cache_size_curves(curves: pd.DataFrame, stem: Path) -> list[Path]:
    """Two panels with a line for each policy, and the clairvoyant reference.

    curves: a row for each `policy` and `cache_gib`, with `hit_rate`, `tpot_s` and, where it was computed,
    `reference_hit_rate` and `reference_tpot_s`. Returns the files written.
    """
    with figure(PAGE_IN, 2.3) as drawing:
        hits, times = drawing.subplots(1, 2, gridspec_kw={"wspace": 0.08})
        for number, (policy, rows) in enumerate(curves.groupby("policy", sort=False)):
            rows = rows.sort_values("cache_gib")
            look = {"color": COLOURS[number % 6], "marker": MARKERS[number % len(MARKERS)], "clip_on": False}
            hits.plot(rows["cache_gib"], 100 * rows["hit_rate"], label=policy, **look)
            times.plot(rows["cache_gib"], 1e3 * rows["tpot_s"], **look)
        best = curves.dropna(subset=["reference_tpot_s"]).drop_duplicates("cache_gib").sort_values("cache_gib")
        if len(best):
            hits.plot(best["cache_gib"], 100 * best["reference_hit_rate"], label="clairvoyant (Belady)", **REFERENCE)
            times.plot(best["cache_gib"], 1e3 * best["reference_tpot_s"], **REFERENCE)
        for axes in (hits, times):
            axes.set_xlabel("expert cache (GiB)")
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
        hits.set_ylim(0, 100)
        hits.set_ylabel("hit rate (%)")
        times.set_ylabel("time per token (ms)")
        drawing.legend(loc="outside upper center", ncols=6)
        return save(drawing, stem)
