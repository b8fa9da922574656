"""The page of runs beside measured rows: errors by model, GPU and engine, a figure, and why rows were not run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.figures.style import PAGE_IN, figure, logarithmic
from experiments.serving.report import errors_of, named_rows, table_of_errors

if TYPE_CHECKING:
    import pandas as pd

PAGE, TABLE, FIGURE = "runtime_rows.md", "runtime_rows.csv", "runtime_rows.png"
TEXT = Path(__file__).parent / PAGE
GROUP = ["model", "system", "backend", "precision"]


def page(rows: pd.DataFrame) -> str:
    """The page of a table by `run_rows`."""
    run = _run(rows)
    groups = [(" / ".join(map(str, key)), part) for key, part in run.groupby(GROUP)]
    counts = rows["reason"].replace("", "run").value_counts()
    fields = {
        "rows": table_of_errors("rows that were run", [("all", run), *groups]),
        "counts": "\n".join(
            ["| aggregated rows of models with experts | |", "|---|---:|"]
            + [f"| {reason} | {count} |" for reason, count in counts.items()]
        ),
    }
    text = TEXT.read_text(encoding="utf-8")
    for name, filled in fields.items():
        text = text.replace(f"<!-- {name} -->", filled)
    return text


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Errors by model, GPU, engine and precision, as shares."""
    import pandas as pd

    parts = _run(rows).groupby(GROUP)
    return pd.DataFrame([{**dict(zip(GROUP, key, strict=True)), **errors_of(part)} for key, part in parts])


def overview(rows: pd.DataFrame) -> str:
    """A line to print."""
    e = errors_of(_run(rows))
    return (
        f"{e['rows']} rows: TPOT {100 * e['tpot_mean']:.1f} % mean and {100 * e['tpot_median']:.1f} % median,"
        f" TTFT {100 * e['ttft_median']:.1f} % median"
    )


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Runs beside measurements."""
    run = _run(rows)
    with figure(PAGE_IN, 3.2) as drawing:
        for axes, what in zip(drawing.subplots(1, 2), ("tpot", "ttft"), strict=True):
            for (model, system), part in run.groupby(["model", "system"]):
                x, y = part[f"silicon_{what}_ms"], part[f"ours_{what}_ms"]
                axes.scatter(x, y, s=10, alpha=0.7, linewidths=0, label=f"{model}, {system.split('_')[0].upper()}")
            both = run[[f"silicon_{what}_ms", f"ours_{what}_ms"]]
            low, high = both.min().min() / 1.3, both.max().max() * 1.3
            axes.plot([low, high], [low, high], color="0.4", linewidth=0.8)
            for axis in "xy":
                logarithmic(axes, axis, low, high)
            axes.set_title(f"{what.upper()} (ms)", fontsize=9)
            axes.set_xlabel("measured")
            axes.set_ylabel("simulated")
        axes.legend(fontsize=6, loc="upper left")
        drawing.savefig(path, dpi=150, metadata={"Software": None})


def _run(rows: pd.DataFrame) -> pd.DataFrame:
    named = named_rows(rows)
    return named[named["reason"] == ""]
