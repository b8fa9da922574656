"""What was published, as data: claims and tables of absolute figures. `reading` makes them from YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLAIMS = Path(__file__).parents[1] / "claims"
ENGINES = "engines.yaml"
NO_ENGINE = "none"
# Published units -> what one SI unit of ours is in them
UNITS = {
    "x": 1.0,
    "tokens/s": 1.0,
    "s": 1.0,
    "s/token": 1.0,
    "ms": 1e3,
    "us": 1e6,
    "%": 1e2,
    "percentage points": 1e2,
    "bytes": 1.0,
    "MB": 1e-6,
    "GB": 1e-9,
    "TB": 1e-12,
    "MiB": 2.0**-20,
    "GiB": 2.0**-30,
    "GB/s": 1e-9,
    "J": 1.0,
    "tokens": 1.0,
    "requests": 1.0,
    "experts": 1.0,
    "sign": 1.0,
    "count": 1.0,
}
ONE, TWO = ("value", "share"), ("ratio", "difference", "change", "sign")  # kinds of metric by how many runs they take
KINDS = (*ONE, *TWO, "python")
MEANS = ("arithmetic", "geometric", "min", "max")
WEIGHTS = {  # confidence of a published figure -> what is done with it
    "read_source": "asserted",
    "abstract_only": "asserted",
    "read_notes": "scored",
    "figure_read": "scored",
    "derived": "shown",
    "recalled": "shown",
}
Range = tuple[float | None, float | None]
Overrides = tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """What is taken of a claim's runs.

    kind: one of KINDS; key: a key of the summary, causes of the critical path (`share`), or a function (`python`);
    of, over: names of runs; arguments: of the function.
    """

    kind: str
    key: tuple[str, ...]
    of: str | None = None
    over: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Claim:
    """One published figure. `cases`: for every override group of `each`, name of a run -> its overrides."""

    id: str
    says: str
    source: str
    confidence: str
    published: Range | None
    unit: str
    band: Range | None
    band_reason: str
    metric: Metric
    mean: str
    cases: tuple[dict[str, Overrides], ...]
    explains_miss: str | None
    remarks: str
    counted: bool = True

    @property
    def weight(self) -> str:
        """asserted, scored or shown."""
        return weight(self.confidence) if self.counted else "shown"

    def runs(self) -> Iterator[Overrides]:
        """Every run it needs."""
        for case in self.cases:
            yield from case.values()


@dataclass(frozen=True)
class Cell:
    """One number of a published table; `overrides` is None where nothing is simulated."""

    row: str
    column: str
    published: float
    overrides: Overrides | None
    engine: str | None


@dataclass(frozen=True, eq=False)
class Table:
    """A table of absolute figures. within: largest accepted relative error, None if nothing is asserted."""

    id: str
    says: str
    source: str
    confidence: str
    unit: str
    metric: Metric
    within: float | None
    within_reason: str
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]
    explains_miss: str | None
    remarks: str

    @property
    def weight(self) -> str:
        """asserted, scored or shown."""
        return "shown" if self.within is None else weight(self.confidence)

    def runs(self) -> Iterator[Overrides]:
        """Every run it needs."""
        for cell in self.cells:
            if cell.overrides is not None:
                yield cell.overrides


@dataclass(frozen=True, eq=False)
class Paper:
    """A claims file."""

    name: str
    path: Path
    system: str | None
    title: str
    venue: str
    year: str
    reference: str
    models: tuple[str, ...]
    machines: tuple[str, ...]
    cannot_show: str
    remarks: str
    engine: str | None
    claims: tuple[Claim, ...]
    tables: tuple[Table, ...]

    def runs(self) -> Iterator[Overrides]:
        """Every run that its claims and tables need."""
        for claim in self.claims:
            yield from claim.runs()
        for table in self.tables:
            yield from table.runs()


def weight(confidence: str) -> str:
    """asserted, scored or shown, by how a published figure is known."""
    return "scored" if confidence.startswith("secondary_") else WEIGHTS[confidence]
