"""A trace as HTML, for notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from traces.reader import Trace

_COUNTS = ("tokens", "first_position", "prefill_tokens", "decode_tokens", "unknown_tokens")


def trace_html(trace: Trace) -> str:
    """What was recorded and by whom, and the lengths of the requests; reads no request."""
    import pandas as pd

    meta = trace.meta
    recorded = {
        "gate weights": meta.has_weights,
        "router probabilities": meta.has_probabilities,
        f"guesses {meta.guess_distances} layers ahead": meta.guess_distances,
        "norms of hidden states": meta.has_norms,
        f"embeddings of requests ({meta.embedding_width} numbers)": meta.embedding_width,
        "expert sizes": meta.expert_bytes is not None,
    }
    facts = {
        "routed layers": str(len(meta.layers)),
        "experts per layer": f"{meta.num_experts}, {meta.top_k} per token recorded of {meta.native_top_k}",
        "recorded": ", ".join(["experts", *(what for what, has in recorded.items() if has)]),
        **{key: text for key in ("dataset", "licence", "source", "notes", "digest") if (text := getattr(meta, key))},
    }
    counts = {key.replace("_", " "): np.array([getattr(request, key) for request in trace.requests]) for key in _COUNTS}
    lengths = pd.DataFrame(
        {
            f"of {len(trace)} requests": list(counts),
            "sum": [int(values.sum()) for values in counts.values()],
            "least": [int(values.min()) for values in counts.values()],
            "median": [f"{np.median(values):.0f}" for values in counts.values()],
            "most": [int(values.max()) for values in counts.values()],
        }
    )
    about = pd.DataFrame({"what": list(facts), "value": list(facts.values())})
    title = f"<div><strong>{escape(trace.path.name)}: routing of {escape(meta.model)}</strong></div>"
    return f"<div>{title}{_html(about, header=False)}{_html(lengths, header=True)}</div>"


def _html(frame: pd.DataFrame, header: bool) -> str:
    import pandas as pd

    with pd.option_context("display.max_colwidth", None):
        text: str = frame.to_html(header=header, index=False, border=0, justify="left")
    return text
