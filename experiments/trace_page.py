"""The page docs/traces.md: statistics of all traces at hand, beside what others found in them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

import traces.statistics
from experiments.explain import ConfigError
from experiments.trace_report import value_at
from traces import DATA_FOLDER, Trace, open_trace
from traces.importers import import_trace
from traces.statistics import BY_LAYER, KEYS, summarise

KNOWN = Path(traces.statistics.__file__).with_name("known.yaml")
_HEAD = """\
# Statistics of the traces

Written by `moesim trace stats --report docs/traces.md`; do not edit. It reads the shipped traces and, if
`MOESIM_EXTRA_DATA` names a folder with more in `traces/per_token/`, those too (marked *; they are not shipped).
`moesim trace stats TRACE` prints the same for one trace, with `--html FILE` as a page with pictures, with `--json`
as data whose keys are explained [below](#keys). In the tables a control stands in brackets behind each value.

Two things to mind: traces of one request say much about that request and little about the model, and shares of
experts in few tokens look more uneven than they are (see the controls).
"""
_TABLES = (
    (
        "Load and locality",
        "Load varies over a layer's experts by its coefficient of variation (uniform routing of as many tokens).\n"
        "Overlap is the share of a token's experts that the token before it chose too (tokens shuffled within\n"
        "requests; over the whole trace; uniform routing). Lag 16 compares tokens 16 apart.",
        (
            ("load CV", "load_cv", ("load_cv_uniform",)),
            (
                "overlap",
                "consecutive_overlap",
                tuple(
                    f"consecutive_overlap_{kind}" for kind in ("within_request_shuffle", "global_shuffle", "uniform")
                ),
            ),
            ("overlap, lag 16", "overlap_by_lag/16", ("overlap_by_lag_shuffle/16",)),
            ("first choice repeated", "first_choice_repeat", ("first_choice_repeat_shuffle",)),
        ),
    ),
    (
        "Hit rates",
        "One cache per layer that holds a quarter or half of the layer's experts, kept across requests (tokens\n"
        "shuffled within requests).",
        tuple(
            (f"{name}, {word}", f"{key}_hit_rate/{fraction}", (f"{key}_hit_rate_shuffle/{fraction}",))
            for name, key in (("LRU", "lru"), ("Belady", "belady"))
            for word, fraction in (("quarter", "0.25"), ("half", "0.5"))
        ),
    ),
    (
        "From layer to layer",
        "Mutual information of the experts of adjacent layers in bits (tokens permuted), recall of a layer's experts\n"
        "by a transition table of the other requests (by popularity), and by recorded look-ahead guesses (of another\n"
        "token).",
        (
            ("information", "next_layer_information_bits", ("next_layer_information_bits_shuffle",)),
            ("transition recall", "next_layer_recall", ("popularity_recall",)),
            ("look-ahead, 1", "look_ahead_recall/1", ("look_ahead_recall_shuffle/1",)),
            ("look-ahead, 2", "look_ahead_recall/2", ("look_ahead_recall_shuffle/2",)),
        ),
    ),
    (
        "Similarity and weights",
        "Similarity is 1 - total variation distance of how tokens spread over experts: of a request's halves (split\n"
        "at random; of two requests), of requests of one task (of two tasks), of first to last quarter (shuffled), of\n"
        "prefill to decode (dealt at random). Weight is the share of the heaviest expert (uniform).",
        (
            ("request's halves", "request_similarity", ("request_similarity_shuffle", "other_request_similarity")),
            ("same task", "same_task_similarity", ("other_task_similarity",)),
            ("quarters", "quarter_similarity/4", ("quarter_similarity_shuffle/4",)),
            ("phases", "phase_similarity", ("phase_similarity_shuffle",)),
            ("weight", "weight_top_share", ("weight_top_share_uniform",)),
        ),
    ),
)


def page() -> str:
    """The page as Markdown; raises ConfigError if MOESIM_EXTRA_DATA is set and has no traces."""
    with tempfile.TemporaryDirectory() as folder:
        found = {name: summarise(trace) for name, trace in all_traces(Path(folder))}
    return page_of(found)


def all_traces(folder: Path) -> Iterator[tuple[str, Trace]]:
    """Name and trace: what is shipped, then what MOESIM_EXTRA_DATA adds, imported to `folder` and named with a *."""
    shipped = [open_trace(path) for path in sorted(DATA_FOLDER.glob("*.parquet"))]
    for trace in shipped:
        yield trace.path.stem, trace
    extra = os.environ.get("MOESIM_EXTRA_DATA")
    if extra is None:
        return
    files = sorted((Path(extra) / "traces" / "per_token").glob("*.parquet"))
    if not files:
        raise ConfigError(f"MOESIM_EXTRA_DATA {extra}: expected a folder with traces/per_token/*.parquet.")
    have = {(trace.meta.model, trace.requests) for trace in shipped}
    for file in files:
        trace = import_trace(file, folder / file.name)
        if (trace.meta.model, trace.requests) not in have:  # else it is shipped
            yield f"{file.stem}*", trace


def page_of(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The page for statistics by name of the trace."""
    text = [_HEAD, "## The traces", _overview(found)]
    for title, says, columns in _TABLES:
        text += [f"## {title}", says, _table(found, columns)]
    text += ["## Beside what is known", _BESIDE, _beside(found), "## Keys", _keys()]
    return "\n\n".join(part.strip("\n") for part in text) + "\n"


_BESIDE = """\
What others found in the same recording, or in another recording of the same model: with other texts, lengths and
top-k, so that only the order of magnitude can agree. "Catalogue" stands for an evaluation of the published recording
with other code; it does not say which requests it took nor how it shuffled.
"""


def _overview(found: Mapping[str, Mapping[str, Any]]) -> str:
    head = ["trace", "model", "requests", "tokens", "layers", "experts", "top-k"]
    rows = [
        [name, v["model"], v["requests"], v["tokens"], len(v["layers"]), v["experts"], v["top_k"]]
        for name, v in found.items()
    ]
    return _markdown(head, rows)


def _table(found: Mapping[str, Mapping[str, Any]], columns: tuple[tuple[str, str, tuple[str, ...]], ...]) -> str:
    def cell(values: Mapping[str, Any], key: str, controls: tuple[str, ...]) -> str:
        beside = "; ".join(_number(value_at(values, control)) for control in controls)
        return "" if value_at(values, key) is None else f"{_number(value_at(values, key))} ({beside})"

    rows = [[name, *(cell(values, key, controls) for _, key, controls in columns)] for name, values in found.items()]
    return _markdown(["trace", *(title for title, _, _ in columns)], rows)


def known() -> list[dict[str, Any]]:
    """The entries of known.yaml."""
    entries: list[dict[str, Any]] = yaml.safe_load(KNOWN.read_text(encoding="utf-8"))
    return entries


def _beside(found: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, values in found.items():
        for entry in known():
            if entry["trace"] == name.rstrip("*"):
                told = entry["value"]
                text = " to ".join(map(str, told)) if isinstance(told, list) else str(told)
                ours = _number(value_at(values, entry["key"]))
                rows.append([name, f"`{entry['key']}`", ours, text, f"same {entry['same']}", entry["source"]])
    return _markdown(["trace", "statistic", "ours", "known", "of", "source"], rows)


def _keys() -> str:
    rows = [[f"`{key}`", text] for key, text in KEYS.items()]
    rows += [[f"`by_layer.{key}`", text] for key, text in BY_LAYER.items()]
    return _markdown(["key", "what"], rows)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _markdown(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    escaped = [[str(cell).replace("|", "\\|").replace("*", "\\*") for cell in row] for row in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)
