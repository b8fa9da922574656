"""Drop: a trace without some of what was recorded beside the experts."""

from __future__ import annotations

import dataclasses
from typing import Any

from traces.schema import RequestTrace
from traces.transforms._stream import Stream, TransformError

# what can go, and the metadata that say it is not there
_ABSENT: dict[str, dict[str, int | bool]] = {
    "weights": {"has_weights": False},
    "probabilities": {"has_probabilities": False},
    "guesses": {"guess_distances": 0, "guess_width": 0},
    "norms": {"has_norms": False},
    "embedding": {"embedding_width": 0},
}


def apply(stream: Stream, what: tuple[str, ...]) -> Stream:
    """Leave out `what`: of weights, probabilities, guesses, norms and embedding; others stay.

    So traces can be joined that do not hold the same, and large ones shrink. What the trace does not hold may be named.
    """
    for name in what:
        if name not in _ABSENT:
            raise TransformError(f"drop: '{name}' cannot be left out; there are {', '.join(_ABSENT)}.")

    def change(request: RequestTrace) -> RequestTrace:
        absent: dict[str, Any] = dict.fromkeys(what)
        return dataclasses.replace(request, **absent)

    changes = {key: value for name in what for key, value in _ABSENT[name].items()}
    return stream.each(change).with_meta(**changes)
