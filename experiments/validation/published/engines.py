"""Overhead of serving frameworks: one constant per engine, fitted on one stated column of a published table.

A framework spends time on every layer that no kernel accounts for (Python, hooks, launches of dequantisation). One
constant for each engine, `settings.framework_layer_s`, is fitted; the cells that it was fitted on are never counted.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, OmegaConf

from experiments.compose import read_yaml
from experiments.explain import ConfigError, did_you_mean
from hwmodels.strict import strict

if TYPE_CHECKING:
    from experiments.validation.published.claims import Cell, Overrides, Paper, Table

    Measure = Callable[[Table, Overrides, float], float]

KEY = "settings.framework_layer_s"
MOST_S = 0.2  # per layer
PRECISION_S = 1e-6


@dataclass(frozen=True)
class Engine:
    """A constant in seconds per layer (None: not fitted yet), and the published column it is fitted on."""

    framework_layer_s: float | None
    paper: str
    table: str
    column: str

    @property
    def overrides(self) -> Overrides:
        """What a run on this engine adds."""
        return () if self.framework_layer_s is None else (f"{KEY}={self.framework_layer_s:.7g}",)


@dataclass
class _Engine:
    paper: str = MISSING
    table: str = MISSING
    column: str = MISSING
    framework_layer_s: float | None = None


def read_engines(path: Path) -> dict[str, Engine]:
    """Name -> engine; none if there is no such file. Raises ConfigError naming file, engine and key."""
    if not path.is_file():
        return {}
    content = OmegaConf.to_container(read_yaml(path))
    assert isinstance(content, Mapping)
    found = {}
    for name, node in content.items():
        raw = strict(_Engine, node, str(path), ConfigError, str(name))
        found[str(name)] = Engine(raw.framework_layer_s, raw.paper, raw.table, raw.column)
    return found


def write_engines(path: Path, engines: Mapping[str, Engine]) -> None:
    """Write the constants back; comments at the top of the file stay."""
    import yaml

    old = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    head = list(itertools.takewhile(lambda line: line.startswith("#"), old))
    content = {
        name: {"paper": e.paper, "table": e.table, "column": e.column, "framework_layer_s": e.framework_layer_s}
        for name, e in engines.items()
    }
    path.write_text("\n".join([*head, yaml.safe_dump(content, sort_keys=False)]), encoding="utf-8")


def fitted_cells(papers: Sequence[Paper], engines: Mapping[str, Engine]) -> list[tuple[Paper, Table, Cell, str]]:
    """Every simulated cell that an engine's constant is fitted on, with the engine's name."""
    found = []
    for paper in papers:
        for table in paper.tables:
            for cell in table.cells:
                engine = engines.get(cell.engine or "")
                if cell.overrides is None or cell.engine is None or engine is None:
                    continue
                if (engine.paper, engine.table, engine.column) == (paper.name, table.id, cell.column):
                    found.append((paper, table, cell, cell.engine))
    return found


def fit(
    papers: Sequence[Paper],
    engines: Mapping[str, Engine],
    measured: Measure,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Engine]:
    """Constants that minimise the squared logarithm of ours over published, over each engine's column.

    measured: (table, overrides, seconds per layer) -> the simulated value in the table's unit. Raises ConfigError
    for an engine whose column is in none of the files.
    """
    from scipy.optimize import minimize_scalar

    known = {(paper.name, table.id): table for paper in papers for table in paper.tables}
    cells = fitted_cells(papers, engines)
    found = dict(engines)
    for name, engine in engines.items():
        if engine.paper not in [paper.name for paper in papers]:
            continue  # of another set, or left out
        table = known.get((engine.paper, engine.table))
        if table is None or engine.column not in table.columns:
            place = f"{engine.paper}, table {engine.table}, column {engine.column}"
            hint = did_you_mean(engine.column, table.columns) if table else "."
            raise ConfigError(f"engine {name}: there is no {place}{hint}")
        own = [(table, cell) for _, table, cell, user in cells if user == name]
        if not own:
            raise ConfigError(f"engine {name}: no simulated cell of column {engine.column} runs on it.")

        loss = functools.partial(_loss, name=name, cells=own, measured=measured)
        done: Any = minimize_scalar(loss, bounds=(0.0, MOST_S), method="bounded", options={"xatol": PRECISION_S})
        at = 0.0 if loss(0.0) <= done.fun else float(f"{done.x:.4g}")
        found[name] = Engine(at, engine.paper, engine.table, engine.column)
        error = math.sqrt(loss(at) / len(own))
        say(f"{name}: {at * 1e3:.3f} ms per layer, on {len(own)} cells of {engine.column}, error {error:.1%}")
    return found


def _loss(seconds: float, name: str, cells: Sequence[tuple[Table, Cell]], measured: Measure) -> float:
    """Sum of squared logarithms of ours over published."""
    total = 0.0
    for table, cell in cells:
        try:
            value = measured(table, cell.overrides or (), seconds)
        except ValueError as error:
            raise ConfigError(f"engine {name}: row '{cell.row}', column '{cell.column}': {error}") from None
        total += math.log(value / cell.published) ** 2
    return total
