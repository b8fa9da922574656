"""Sample: some of the requests, drawn at random."""

from __future__ import annotations

import numpy as np

from traces.transforms._stream import Rows, Stream, TransformError


def apply(stream: Stream, requests: int, seed: int = 0) -> Stream:
    """Keep that many requests, drawn without replacement, in their order and with their ids."""
    if requests < 1 or seed < 0:
        raise TransformError("sample: requests must be at least 1, and seed at least 0.")

    def rows() -> Rows:
        available = sum(1 for _ in stream.rows())
        if requests > available:
            raise TransformError(f"sample: {requests} requests are wanted, but there are {available}.")
        chosen = set(np.random.default_rng(seed).choice(available, size=requests, replace=False).tolist())
        for index, row in enumerate(stream.rows()):
            if index in chosen:
                yield row

    return Stream(stream.meta, rows)
