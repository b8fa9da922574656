"""What a figure has to draw from: points, how their values are called, and what tells them apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.explain import ConfigError
from experiments.figures.names import display
from experiments.figures.style import shown
from experiments.figures.table import checked
from experiments.figures.where import told

if TYPE_CHECKING:
    import pandas as pd

    from simulator.result import Result

_LAST = ("system", "trace_digest", "name")  # what differs is rather said by another column


@dataclass
class Data:
    """What a kind has to draw from; which fields are filled depends on what it needs.

    names             value or column -> what the figure calls it
    points, requests  as from `experiments.results.load` and `requests`
    configs           plain configurations
    results           of runs that were recorded, in memory
    """

    name: str
    names: dict[str, str] = field(default_factory=dict)
    points: pd.DataFrame | None = None
    requests: pd.DataFrame | None = None
    configs: list[dict[str, Any]] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    def called(self, value: Any, column: str) -> Any:
        """What the figure calls a value of a column."""
        text = shown(value, 1000)
        if text in self.names:
            return self.names[text]
        if column == "system" and " with " in "".join(self._systems()):
            return self._system(text)
        return display(value, column)

    def renamed(self, table: pd.DataFrame, *columns: str | None) -> pd.DataFrame:
        """The table with the values of `columns` as the figure calls them."""
        kept = [column for column in columns if column is not None and column in table]
        return table.assign(**{column: [self.called(value, column) for value in table[column]] for column in kept})

    def labels(self, table: pd.DataFrame, columns: Sequence[str]) -> list[str]:
        """For each row what the values of `columns` are called, with commas between."""
        return [
            ", ".join(str(self.called(value, column)) for column, value in zip(columns, row, strict=True))
            for row in table[list(columns)].itertuples(index=False, name=None)
        ]

    def apart(self, *keys: str | None, among: Iterable[int] | None = None) -> list[str]:
        """The fewest columns of the configuration that tell points with the same `keys` apart, as far as any do.

        among: numbers of the points that count; None: all.
        """
        from experiments.results.frames import configuration

        assert self.points is not None
        points = self.points if among is None else self.points[self.points["point"].isin(list(among))]
        columns = [column for column in configuration(points) if column not in _LAST]
        last = [column for column in _LAST if column in points]
        return _telling(points, [key for key in keys if key is not None and key in points], [*columns, *last])

    def columns(
        self, names: Iterable[str | None], numbers: Iterable[str], optional: Iterable[str] = ()
    ) -> pd.DataFrame:
        """The points' columns that a figure needs, checked, and those of the optional ones that there are."""
        assert self.points is not None
        wanted = list(dict.fromkeys(["point", *(name for name in names if name), *numbers]))
        checked(self.points, Path(self.name), wanted)
        return self.points[[*wanted, *(name for name in optional if name in self.points and name not in wanted)]]

    def only(self, what: list[Any]) -> Any:
        """The one of a list. Raises ConfigError if there are more."""
        if len(what) != 1:
            differing = self.apart()[:1] if self.points is not None else []
            told_apart = "".join(f" by '{column}': {told(self.points[column])}" for column in differing)  # type: ignore
            said = f"it shows one run, and {len(what)} are given; choose one of them{told_apart}."
            raise ConfigError(f"figure {self.name}: {said}")
        return what[0]

    def _systems(self) -> list[str]:
        return [] if self.points is None or "system" not in self.points else list(map(str, self.points["system"]))

    def _system(self, text: str) -> str:
        """A system with changes ("on_demand_lru with policy/cache=lfu") by them alone where all change the same one."""
        assert self.points is not None
        once = self.points.drop_duplicates("system")
        if len({system.partition(" with ")[0] for system in self._systems()}) == 1:
            policies = [column for column in once if str(column).startswith("policy.")]
            telling = _telling(once, [], policies)
            if telling and not once.duplicated(telling).any():
                return self.labels(once[once["system"] == text], telling)[0]
        base, _, changes = text.partition(" with ")
        parts = [change.lstrip("+").partition("=") for change in changes.split()]
        named = [str(self.called(value, key.replace("/", "."))) for key, _, value in parts]
        whole = self.names.get(base, str(display(base, "system")))
        return f"{whole} with {', '.join(named)}" if named else whole


def _telling(points: pd.DataFrame, keys: list[str], candidates: list[str]) -> list[str]:
    """Those candidates, in their order, that split rows with the same keys; the one that splits most is taken first."""

    def groups(columns: list[str]) -> int:
        return len(points[columns].astype(str).drop_duplicates()) if columns else 1

    found: list[str] = []
    now = groups(keys)
    while now < len(points):
        splits = {column: groups([*keys, *found, column]) for column in candidates if column not in (*keys, *found)}
        best = max(splits, key=lambda column: splits[column], default=None)
        if best is None or splits[best] == now:
            break
        found.append(best)
        now = splits[best]
    return [column for column in candidates if column in found]
