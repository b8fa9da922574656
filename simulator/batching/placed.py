"""A request's routing by the parts of a layout that hold its experts, in which many steps are counted at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simulator.batching.prepared import Prepared, counted


class ExpertParts:
    """Where experts lie: of each part the experts of a layer side by side, in as many slots as the fullest one needs.

    owners: part of each expert, [layers, experts]. L layers, P parts, S slots.
    """

    def __init__(self, owners: np.ndarray, parts: int) -> None:
        self.owners = owners
        layers = len(owners)
        held = owners[:, :, None] == np.arange(parts)
        slots = np.take_along_axis(held.cumsum(axis=1), owners[:, :, None], axis=2)[:, :, 0] - 1
        self.shape = parts, layers, int(slots.max()) + 1
        first = (owners * layers + np.arange(layers)[:, None]) * self.shape[2]
        self.cells = (first + slots).astype(np.int32)  # [layers, experts]

    @property
    def size(self) -> int:
        """P * L * S."""
        parts, layers, slots = self.shape
        return parts * layers * slots


class Placed(Prepared):
    """R rows of a request, of the prompt then of decoding, with top-k experts in L layers.

    cells    int32 [R, L * k], (part * L + layer) * S + slot, -1 where a slot is empty
    touched  bool [R, L, P], whether a token has experts of a part
    whole    whether no decode row has an empty slot
    """

    __slots__ = ("_touched", "touched", "where")

    def __init__(self, rows: np.ndarray, prompt_rows: int, where: ExpertParts) -> None:
        ids = rows.astype(np.int64)
        there, layers = ids >= 0, np.arange(ids.shape[1])[:, None]
        at = layers, np.maximum(ids, 0)
        self.where = where
        self.cells = np.where(there, where.cells[at], -1).reshape(len(ids), -1)
        self.whole = bool(there[prompt_rows:].all())
        touched = np.zeros((*ids.shape[:2], where.shape[0] + 1), dtype=bool)  # the last is of empty slots
        np.put_along_axis(touched, np.where(there, where.owners[at], -1), True, axis=2)
        self.touched = touched[:, :, :-1]
        self._counts: dict[tuple[int, int], np.ndarray] = {}
        self._touched: dict[tuple[int, int], np.ndarray] = {}

    def counts(self, start: int, stop: int) -> np.ndarray:
        """Tokens that each expert serves in some rows, [P, L, S]."""
        return _kept(
            self._counts,
            (start, stop),
            lambda: counted(self.cells[start:stop], self.where.size).reshape(self.where.shape),
        )

    def reached(self, start: int, stop: int) -> np.ndarray:
        """Of some rows, how many have experts of each part, [L, P]."""
        return _kept(self._touched, (start, stop), lambda: self.touched[start:stop].sum(axis=0))


def _kept(kept: dict[tuple[int, int], np.ndarray], key: tuple[int, int], make: Callable[[], np.ndarray]) -> np.ndarray:
    """That of a chunk; of a few chunks it is kept, as other requests may have the same rows."""
    if key in kept:
        return kept[key]
    found = make()
    if key[1] - key[0] > 1 and len(kept) <= 8:
        kept[key] = found
    return found
