"""Figures, ranges and tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from experiments.validation.published.claims import Range

NONE = "-"
_SIGNS = {1.0: "higher", 0.0: "equal", -1.0: "lower"}


def anchor(title: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def number(value: float, unit: str, with_unit: bool = True) -> str:
    """Three digits and the unit."""
    if unit == "sign":
        return _SIGNS.get(value, f"{value:g}")
    text = "0" if value == 0 else f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
    short = {"x": "x", "count": "", "percentage points": " points"}.get(unit, f" {unit}")
    return f"{text}{short}" if with_unit else text


def span(within: Range | None, unit: str) -> str:
    """A range in words."""
    if within is None:
        return NONE
    low, high = within
    if low == high and low is not None:
        return number(low, unit)
    if low is None or high is None:
        return f"≤ {number(high, unit)}" if high is not None else f"≥ {number(low or 0.0, unit)}"
    return f"{number(low, unit, with_unit=False)} to {number(high, unit)}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A Markdown table; columns of `numbers` are aligned to the right."""
    right = set(numbers)
    marks = ["---:" if place in right else "---" for place in range(len(heads))]
    lines = [heads, marks, *([" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
