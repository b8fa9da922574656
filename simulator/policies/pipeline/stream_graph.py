"""The task graph of a step whose work runs on several streams: GPU, host CPU, copies there and back, staging."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple


class Stream(IntEnum):
    """What serves tasks, each in the order in which they were added."""

    GPU = 0
    CPU = 1
    TO_GPU = 2
    TO_HOST = 3
    STAGING = 4


class Kind(IntEnum):
    """What a task does for one micro-batch in one layer (of WEIGHTS and STAGE, `part` is a page of the layer instead).

    FRONT: norms and QKV projection; ATTENTION: on the host CPU; BACK: output projection, router, experts; WHOLE: a
    layer with its attention; QKV: queries, keys and values to the host; KEYS_OUT: new keys and values to the host;
    HIDDEN: attention's outputs to the GPU; KEYS_IN: the KV cache to the GPU; WEIGHTS: a page of weights to the GPU;
    STAGE: the same page from where it lies to a page-locked buffer.
    """

    FRONT = 0
    BACK = 1
    WHOLE = 2
    ATTENTION = 3
    HIDDEN = 4
    KEYS_IN = 5
    WEIGHTS = 6
    QKV = 7
    KEYS_OUT = 8
    STAGE = 9


STREAM_OF = (
    *(Stream.GPU, Stream.GPU, Stream.GPU, Stream.CPU),
    *(Stream.TO_GPU, Stream.TO_GPU, Stream.TO_GPU, Stream.TO_HOST, Stream.TO_HOST, Stream.STAGING),
)
"""Kind -> stream."""


class StreamTask(NamedTuple):
    """Starts when the tasks at the places `after` of its list have ended, and those added to its stream before it.

    A place -1-p is page p of the first layer, which the step before has asked for.
    """

    kind: Kind
    layer: int
    part: int
    parts: int
    after: tuple[int, ...]


class StreamGraph:
    """Tasks in the order in which they are added, and the pages of each layer's weights.

    layers    of the model; a layer of this number is the first one of the next step
    carried   pages of the first layer that the step before has asked for
    staged    whether weights pass through page-locked buffers, of which there are two
    dense_share  of a layer's bytes, those of its first part: all but experts
    """

    def __init__(self, layers: int, carried: int, staged: bool, dense_share: float) -> None:
        self.layers = layers
        self.tasks: list[StreamTask] = []
        self._staged = staged
        self._dense_share = dense_share
        self._pages: dict[int, list[int]] = {0: [-1 - page for page in range(carried)]}
        self._recent = self._pages[0][-2:]
        self._done: dict[int, int] = {}  # layer -> its last task on the GPU

    def add(self, kind: Kind, layer: int, part: int, parts: int, *after: int) -> int:
        """Append a task; returns its place."""
        self.tasks.append(StreamTask(kind, layer, part, parts, after))
        place = len(self.tasks) - 1
        if kind in (Kind.BACK, Kind.WHOLE):
            self._done[layer] = place
        return place

    def page(self, layer: int, part: int, parts: int) -> None:
        """Ask for a page of a layer's weights; its room is that of the layer two before."""
        after = [self._done[layer - 2]] if layer > 1 else []
        if self._staged:
            after.append(self.add(Kind.STAGE, layer, part, parts, *self._recent[:-1]))
        place = self.add(Kind.WEIGHTS, layer, part, parts, *after)
        self._recent = [*self._recent[-1:], place]
        self._pages.setdefault(layer, []).append(place)

    def all_of(self, layer: int) -> int:
        """The last page of a layer."""
        return self._pages[layer][-1]

    def dense_of(self, layer: int) -> int:
        """The last page that holds something of a layer's dense part, which comes first."""
        pages = self._pages[layer]
        return pages[max(1, math.ceil(self._dense_share * len(pages))) - 1]
