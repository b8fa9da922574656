"""Warnings of this package; `warnings.simplefilter("error", NoiseWarning)` makes one an error."""

from __future__ import annotations


class NoiseWarning(UserWarning):
    """A difference that the requests of the trace cannot tell from chance, or too few requests to say."""


class LeftOutWarning(UserWarning):
    """Rows that take no part in a result: without a partner, or without a value."""
