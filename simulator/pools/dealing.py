"""Which replica gets which request."""

from __future__ import annotations

from collections.abc import Sequence

DEALINGS = ("in_turn", "fewest_tokens")


def dealt(how: str, tokens: Sequence[int], seats: int) -> list[int]:
    """The seat of each request, in the order in which they are dealt; `tokens` of each.

    in_turn: one after another; fewest_tokens: to the seat that was given the fewest so far, of equal ones the first.
    What has been served meanwhile plays no part.

    >>> dealt("in_turn", [9, 1, 1], 2), dealt("fewest_tokens", [9, 1, 1], 2)
    ([0, 1, 0], [0, 1, 1])
    """
    given = [0] * seats
    chosen = []
    for number, size in enumerate(tokens):
        seat = number % seats if how == "in_turn" else min(range(seats), key=given.__getitem__)
        given[seat] += size
        chosen.append(seat)
    return chosen
