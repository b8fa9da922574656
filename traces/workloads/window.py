"""A window of a service that has run for long, with every place of its batch taken."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

import numpy as np

from traces.workloads.requests import WorkloadError

KEYS = ("in_flight", "steps")


def window(node: Any, prompt: np.ndarray, decode: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Lengths, int64 [N], of the requests that a window of `steps` steps sees, where `in_flight` are always served.

    node: a mapping of these two. prompt, decode: lengths drawn for requests, int64 [more than N]. The first in_flight
    are under way when it begins: request i has (i + 1/2) / in_flight of its answer, which count as its prompt. Where
    one ends, the next begins in the step after, its prompt taking that step; the end of the window cuts all.
    Raises WorkloadError, one sentence that begins with `where`, for a wrong node, or if there are too few requests.
    """
    right = isinstance(node, Mapping) and set(node) == set(KEYS) and all(type(node[key]) is int for key in KEYS)
    if not right or min(node.values()) < 1:
        raise WorkloadError(f"{where} must be a mapping of {' and '.join(KEYS)} to whole numbers from 1, not {node!r}.")
    in_flight, steps = node["in_flight"], node["steps"]
    if len(decode) < in_flight:
        raise WorkloadError(f"{where} needs {in_flight} requests or more, but there are {len(decode)}.")
    prompt, decode = prompt.copy(), decode.copy()
    had = decode[:in_flight] * (2 * np.arange(in_flight) + 1) // (2 * in_flight)
    prompt[:in_flight] += had
    decode[:in_flight] -= had
    ends = []  # (step, place), of those that are served
    for place in range(in_flight):
        ends.append((int(decode[place]), place))
        decode[place] = min(int(decode[place]), steps)
    heapq.heapify(ends)
    count = in_flight
    while ends[0][0] + 1 < steps:
        if count == len(decode):
            raise WorkloadError(f"{where} of {steps} steps needs more than {count} requests.")
        begin, place = ends[0]
        heapq.heapreplace(ends, (begin + 1 + int(decode[count]), place))
        decode[count] = min(int(decode[count]), steps - begin - 1)
        count += 1
    return prompt[:count], decode[:count]
