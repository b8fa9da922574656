"""Statistics of a trace for people: a table for the terminal, and a page with pictures that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from experiments.figures.style import COLUMN_IN, figure, legend_shape, stroke
from traces.statistics import KEYS

_WITHIN = "shuffled within requests"
# what it says, the key, its controls as (name, key); "shuffled" is within requests
ROWS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("load of experts: coefficient of variation", "load_cv", (("uniform", "load_cv_uniform"),)),
    ("load of experts: largest over mean", "load_max_over_mean", (("uniform", "load_max_over_mean_uniform"),)),
    ("load of experts: Gini coefficient", "load_gini", (("uniform", "load_gini_uniform"),)),
    (
        "overlap of consecutive tokens",
        "consecutive_overlap",
        (
            ("shuffled", "consecutive_overlap_within_request_shuffle"),
            ("globally", "consecutive_overlap_global_shuffle"),
            ("uniform", "consecutive_overlap_uniform"),
        ),
    ),
    ("first choice repeated", "first_choice_repeat", (("shuffled", "first_choice_repeat_shuffle"),)),
    ("expert used within the last 8 tokens", "reuse_within/8", (("shuffled", "reuse_within_shuffle/8"),)),
    ("LRU hit rate with a quarter of a layer", "lru_hit_rate/0.25", (("shuffled", "lru_hit_rate_shuffle/0.25"),)),
    ("LRU hit rate with half of a layer", "lru_hit_rate/0.5", (("shuffled", "lru_hit_rate_shuffle/0.5"),)),
    (
        "Belady hit rate with a quarter of a layer",
        "belady_hit_rate/0.25",
        (("shuffled", "belady_hit_rate_shuffle/0.25"),),
    ),
    ("Belady hit rate with half of a layer", "belady_hit_rate/0.5", (("shuffled", "belady_hit_rate_shuffle/0.5"),)),
    (
        "information about the next layer, bits",
        "next_layer_information_bits",
        (("permuted", "next_layer_information_bits_shuffle"),),
    ),
    ("recall of the next layer", "next_layer_recall", (("popularity", "popularity_recall"),)),
    ("look-ahead recall, one layer", "look_ahead_recall/1", (("shuffled", "look_ahead_recall_shuffle/1"),)),
    ("look-ahead recall, two layers", "look_ahead_recall/2", (("shuffled", "look_ahead_recall_shuffle/2"),)),
    (
        "similarity of a request's halves",
        "request_similarity",
        (("shuffled", "request_similarity_shuffle"), ("of two requests", "other_request_similarity")),
    ),
    (
        "similarity of requests of one task",
        "same_task_similarity",
        (("of two tasks", "other_task_similarity"), ("of any", "other_request_similarity")),
    ),
    (
        "similarity to the request nearest by embedding",
        "nearest_request_similarity",
        (("of any", "other_request_similarity"), ("of one task", "same_task_similarity")),
    ),
    (
        "rank correlation of embeddings with routing",
        "embedding_routing_correlation",
        (("dealt at random", "embedding_routing_correlation_shuffle"),),
    ),
    (
        "cosine of embeddings of one task",
        "same_task_embedding_cosine",
        (("of two tasks", "other_task_embedding_cosine"), ("of any", "embedding_cosine")),
    ),
    (
        "similarity of first to last quarter",
        "quarter_similarity/4",
        (("shuffled", "quarter_similarity_shuffle/4"),),
    ),
    ("weight on the heaviest expert", "weight_top_share", (("uniform", "weight_top_share_uniform"),)),
    ("entropy of weights, bits", "weight_entropy_bits", (("uniform", "weight_entropy_bits_uniform"),)),
    ("norm of hidden states", "norm_mean", ()),
    ("norm of hidden states: coefficient of variation", "norm_cv", ()),
    (
        "overlap of consecutive tokens, prefill",
        "phases/prefill/consecutive_overlap",
        (("shuffled", "phases/prefill/consecutive_overlap_within_request_shuffle"),),
    ),
    (
        "overlap of consecutive tokens, decode",
        "phases/decode/consecutive_overlap",
        (("shuffled", "phases/decode/consecutive_overlap_within_request_shuffle"),),
    ),
    ("similarity of prefill to decode", "phase_similarity", (("dealt at random", "phase_similarity_shuffle"),)),
)


def value_at(values: Mapping[str, Any], path: str) -> float | None:
    """The value under a path such as ``lru_hit_rate/0.5``; None where there is none."""
    found: Any = values
    for key in path.split("/"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def table_rows(values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What, value and controls as text, for each statistic that the trace has."""
    rows = []
    for what, path, controls in ROWS:
        value = value_at(values, path)
        if value is not None:
            beside = [(name, value_at(values, key)) for name, key in controls]
            rows.append((what, f"{value:.3f}", ", ".join(f"{name} {v:.3f}" for name, v in beside if v is not None)))
    return rows


def headline(values: Mapping[str, Any], name: str) -> str:
    """What the trace is, in one line."""
    return (
        f"{name}: {values['model']}, {values['requests']} requests, {values['tokens']} tokens,"
        f" {len(values['layers'])} layers of {values['experts']} experts, top-{values['top_k']}"
    )


def print_table(values: Mapping[str, Any], name: str) -> None:
    """The table that `moesim trace stats` prints."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=headline(values, name), title_justify="left", title_style="bold")
    table.add_column("statistic", style="bold", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("controls")
    for row in table_rows(values):
        table.add_row(*row)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    norms = values["by_layer"].get("norm_mean")
    if norms:
        shown = (f"{layer} {norm:.3g}" for layer, norm in zip(values["layers"], norms, strict=True) if norm is not None)
        console.print(f"norm of hidden states by layer: {', '.join(shown)}")


def html_page(values: Mapping[str, Any], name: str) -> str:
    """A page with the table, the pictures (SVG, embedded) and what the statistics mean."""
    rows = "\n".join(f"<tr><td>{'</td><td>'.join(map(escape, row))}</td></tr>" for row in table_rows(values))
    images = "\n".join(
        f'<figure><img alt="{escape(title)}" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}">'
        f"<figcaption>{escape(title)}</figcaption></figure>"
        for title, svg in pictures(values).items()
    )
    said = "\n".join(f"<dt>{key}</dt><dd>{escape(text)}</dd>" for key, text in KEYS.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title><style>
body {{ font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em }}
table {{ border-collapse: collapse }} td, th {{ padding: .15em .8em .15em 0; text-align: left }}
figure {{ display: inline-block; margin: 1em 1em 0 0; vertical-align: top; width: 22em }} img {{ width: 100% }}
dt {{ font-family: monospace }}
</style></head><body>
<h1>{escape(name)}</h1>
<p>{escape(headline(values, name))}; digest {escape(values["digest"])}, seed {values["seed"]}</p>
<table><tr><th>statistic</th><th>value</th><th>controls</th></tr>
{rows}
</table>
{images}
<h2>What the keys say</h2><dl>
{said}
</dl></body></html>
"""


Curves = Mapping[str, tuple[Sequence[Any], Sequence[Any]]]  # label -> x (numbers, or names of bars), y (or None)


def pictures(values: Mapping[str, Any]) -> dict[str, bytes]:
    """Title -> SVG of every picture that the trace has data for."""
    drawn = {}
    for title, x_label, y_label, curves in _panels(values):
        shown = {name: (x, y) for name, (x, y) in curves.items() if any(v is not None for v in y)}
        if shown:
            drawn[title] = _svg(shown, x_label, y_label, logarithmic=x_label.endswith("tokens"))
    return drawn


def _panels(values: Mapping[str, Any]) -> list[tuple[str, str, str, Curves]]:
    """Title, names of the axes and curves of each picture."""

    def layers(names: Mapping[str, str]) -> Curves:
        found = {label: values["by_layer"].get(key) for label, key in names.items()}
        where = values["layers"]
        return {label: (where[len(where) - len(y) :], y) for label, y in found.items() if y}  # the last so many layers

    def over(names: Mapping[str, str]) -> Curves:
        found = {label: values.get(key) for label, key in names.items()}
        return {label: ([float(x) for x in y], list(y.values())) for label, y in found.items() if y}

    return [
        (
            "Load of experts by layer",
            "layer",
            "coefficient of variation",
            layers({"trace": "load_cv", "uniform": "load_cv_uniform"}),
        ),
        (
            "Load of the most loaded expert by layer",
            "layer",
            "largest over mean",
            layers({"trace": "load_max_over_mean", "uniform": "load_max_over_mean_uniform"}),
        ),
        (
            "Overlap of consecutive tokens by layer",
            "layer",
            "share of experts",
            layers(
                {
                    "trace": "consecutive_overlap",
                    _WITHIN: "consecutive_overlap_within_request_shuffle",
                    "shuffled globally": "consecutive_overlap_global_shuffle",
                    "uniform": "consecutive_overlap_uniform",
                }
            ),
        ),
        (
            "Overlap by distance",
            "distance in tokens",
            "share of experts",
            over({"trace": "overlap_by_lag", _WITHIN: "overlap_by_lag_shuffle"}),
        ),
        (
            "Reuse distance: experts used within the last n tokens",
            "n, tokens",
            "share of accesses",
            over({"trace": "reuse_within", _WITHIN: "reuse_within_shuffle"}),
        ),
        (
            "Hit rate of one cache per layer",
            "share of a layer's experts that fit",
            "hit rate",
            over(
                {
                    "LRU": "lru_hit_rate",
                    "LRU, shuffled": "lru_hit_rate_shuffle",
                    "Belady": "belady_hit_rate",
                    "Belady, shuffled": "belady_hit_rate_shuffle",
                }
            ),
        ),
        (
            "Recall of a layer's experts from the layer before",
            "layer guessed",
            "recall",
            layers(
                {
                    "transition table": "next_layer_recall",
                    "popularity": "popularity_recall",
                    "look-ahead guesses": "look_ahead_recall",
                }
            ),
        ),
        (
            "Mutual information with the layer before",
            "layer",
            "bits",
            layers({"trace": "next_layer_information_bits", "permuted": "next_layer_information_bits_shuffle"}),
        ),
        ("Similarity of halves of requests", "", "1 - total variation", _similarities(values)),
        (
            "Similarity of a request's first quarter to the others",
            "quarter",
            "1 - total variation",
            over({"trace": "quarter_similarity", _WITHIN: "quarter_similarity_shuffle"}),
        ),
        ("Weight on the heaviest expert by layer", "layer", "share", layers({"trace": "weight_top_share"})),
        ("Norm of hidden states by layer", "layer", "L2 norm, mean of tokens", layers({"trace": "norm_mean"})),
    ]


_HALVES = {
    "request_similarity_shuffle": "itself,\nshuffled",
    "request_similarity": "itself",
    "same_task_similarity": "same\ntask",
    "nearest_request_similarity": "nearest\nembedding",
    "other_request_similarity": "any\nother",
    "other_task_similarity": "other\ntask",
}


def _similarities(values: Mapping[str, Any]) -> Curves:
    """Bars, marked by text where a curve has numbers."""
    found = {name: values[key] for key, name in _HALVES.items() if values[key] is not None}
    return {"": (list(found), list(found.values()))} if found else {}


def _svg(curves: Curves, x_label: str, y_label: str, logarithmic: bool) -> bytes:
    labels = [name for name in curves if name]
    columns, legend_in = legend_shape([f"{label}    " for label in labels], COLUMN_IN)
    with figure(COLUMN_IN, 2.1 + legend_in) as drawing:
        axes = drawing.subplots()
        for number, (name, (x, y)) in enumerate(curves.items()):
            if name:
                heights = np.array([np.nan if value is None else value for value in y])
                axes.plot(x, heights, label=name, **{**stroke(number), "markersize": 2.5})
            else:
                axes.bar(x, y, color=stroke(0)["color"], width=0.6)
        if logarithmic:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_ylim(0, 1.05 * max(v for _, y in curves.values() for v in y if v is not None) or None)
        if x_label == "quarter":
            axes.set_xticks([2, 3, 4])
        if labels:
            drawing.legend(loc="outside upper left", ncols=columns)
        picture = io.BytesIO()
        drawing.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    return picture.getvalue()
