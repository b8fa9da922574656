"""Claims files: one YAML per published system, read strictly.

A folder of `experiments/validation/claims` is a set of them (`moesim validate NAME`). The format is described in
docs/validation/claims.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from experiments.compose import read_yaml
from experiments.explain import ConfigError, did_you_mean
from experiments.validation.published.claims import (
    CLAIMS,
    ENGINES,
    KINDS,
    MEANS,
    NO_ENGINE,
    TWO,
    UNITS,
    WEIGHTS,
    Cell,
    Claim,
    Metric,
    Overrides,
    Paper,
    Range,
    Table,
    weight,
)
from experiments.validation.published.engines import read_engines
from hwmodels.strict import strict


@dataclass
class _Paper:
    title: str = MISSING
    reference: str = MISSING
    system: str | None = None
    venue: str = ""
    year: str = ""
    models: list[str] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)
    cannot_show: str = ""
    remarks: str = ""
    engine: str | None = None
    lists: list[Any] = field(default_factory=list)
    common: list[Any] = field(default_factory=list)
    claims: list[Any] = field(default_factory=list)
    tables: list[Any] = field(default_factory=list)


@dataclass
class _Claim:
    id: str = MISSING
    says: str = MISSING
    source: str = MISSING
    confidence: str = MISSING
    unit: str = MISSING
    metric: Any = MISSING
    published: Any = None
    band: Any = None
    band_reason: str = ""
    runs: dict[str, Any] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)
    each: list[Any] = field(default_factory=list)
    mean: str = "arithmetic"
    explains_miss: str | None = None
    remarks: str = ""
    counted: bool = True


@dataclass
class _Table:
    id: str = MISSING
    says: str = MISSING
    source: str = MISSING
    confidence: str = MISSING
    unit: str = MISSING
    metric: Any = MISSING
    columns: dict[str, Any] = field(default_factory=dict)
    rows: list[Any] = field(default_factory=list)
    common: list[Any] = field(default_factory=list)
    within: float | None = None
    within_reason: str = ""
    explains_miss: str | None = None
    remarks: str = ""


@dataclass
class _Row:
    name: str = MISSING
    published: list[Any] = field(default_factory=list)
    overrides: Any = None
    cells: dict[str, Any] = field(default_factory=dict)
    engine: str | None = None


def claim_sets(folder: Path = CLAIMS) -> dict[str, Path]:
    """Name -> folder of the sets of claims below `folder`; by default of those that are shipped."""
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and any(path.glob("*.yaml"))}


def read_papers(folder: Path, only: Sequence[str] = ()) -> list[Paper]:
    """The claims files of a folder in order of name, or those of `only` (by file or system).

    Engine constants come from `engines.yaml` beside the folder. Raises ConfigError, one sentence that names the
    file, the claim and the key.
    """
    if folder.is_file():
        raise ConfigError(f"{folder}: is a file; give its folder.")
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder of claims{did_you_mean(folder.name, claim_sets())}")
    paths = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if not paths:
        raise ConfigError(f"{folder}: expected a YAML file for each system, found none.")
    for name in only:
        if name not in paths:
            raise ConfigError(f"--only {name}: there are no such claims in {folder}{did_you_mean(name, paths)}")
    engines = {name: engine.overrides for name, engine in read_engines(folder.parent / ENGINES).items()}
    return [read_paper(path, engines) for name, path in paths.items() if not only or name in only]


def read_paper(path: Path, engines: Mapping[str, Overrides]) -> Paper:
    """One claims file. engines: name -> overrides of its constant. Raises ConfigError."""
    node = OmegaConf.to_container(read_yaml(path))
    raw = strict(_Paper, node, str(path), ConfigError)
    common = _flat(raw.common, str(path), "common")
    if not (raw.claims or raw.tables):
        raise ConfigError(f"{path}: expected at least one entry in claims or tables.")

    def of_engine(name: str | None, where: str) -> Overrides:
        name = name or raw.engine
        if name is None or name == NO_ENGINE:
            return ()
        if name not in engines:
            raise ConfigError(f"{where}: engine '{name}' is not in {ENGINES}{did_you_mean(name, engines)}")
        return engines[name]

    claims = tuple(_claim(item, str(path), number, common, of_engine) for number, item in enumerate(raw.claims))
    tables = tuple(
        _table(item, str(path), number, common, of_engine, raw.engine) for number, item in enumerate(raw.tables)
    )
    ids = [*(claim.id for claim in claims), *(table.id for table in tables)]
    for name in ids:
        if ids.count(name) > 1:
            raise ConfigError(f"{path}: claim '{name}' is there twice; expected an id of its own for each.")
    return Paper(
        path.stem,
        path,
        raw.system,
        raw.title,
        raw.venue,
        raw.year,
        raw.reference,
        tuple(raw.models),
        tuple(raw.machines),
        raw.cannot_show,
        raw.remarks,
        raw.engine,
        claims,
        tables,
    )


def _place(item: Any, path: str, kind: str, number: int) -> str:
    name = item.get("id") if isinstance(item, Mapping) else None
    return f"{path}: {kind} '{name}'" if name else f"{path}: {kind} {number + 1}"


def _claim(item: Any, path: str, number: int, common: Overrides, of_engine: Any) -> Claim:
    where = _place(item, path, "claim", number)
    raw = strict(_Claim, item, where, ConfigError)
    _check(raw, where)
    if raw.mean not in MEANS:
        raise ConfigError(f"{where}: mean is '{raw.mean}'; expected one of {', '.join(MEANS)}.")
    published, band = _range(raw.published, where, "published"), _range(raw.band, where, "band")
    if raw.counted and weight(raw.confidence) == "asserted" and band is None:
        raise ConfigError(f"{where}: band is missing; a figure with confidence {raw.confidence} needs one.")
    if band is not None and not raw.band_reason:
        raise ConfigError(f"{where}: band_reason is missing; say why this band.")
    named = {name: _flat(value, where, f"runs.{name}") for name, value in raw.runs.items()}
    shared = named.pop("common", ())
    for name in raw.engines:
        if name not in named:
            raise ConfigError(f"{where}: engines.{name} names no run{did_you_mean(name, named)}")
    groups = [_flat(group, where, f"each[{place}]") for place, group in enumerate(raw.each)] or [()]
    cases = tuple(
        {name: join(common, of_engine(raw.engines.get(name), where), shared, group, own) for name, own in named.items()}
        for group in groups
    )
    metric = _metric(raw.metric, where, list(named))
    unused = [name for name in named if metric.kind != "python" and name not in (metric.of, metric.over)]
    if unused:
        raise ConfigError(f"{where}: runs.{unused[0]} is used by no part of metric.")
    return Claim(
        raw.id,
        raw.says,
        raw.source,
        raw.confidence,
        published,
        raw.unit,
        band,
        raw.band_reason,
        metric,
        raw.mean,
        cases,
        raw.explains_miss,
        raw.remarks,
        raw.counted,
    )


def _table(item: Any, path: str, number: int, common: Overrides, of_engine: Any, engine: str | None) -> Table:
    where = _place(item, path, "table", number)
    raw = strict(_Table, item, where, ConfigError)
    _check(raw, where)
    if raw.within is not None and not raw.within_reason:
        raise ConfigError(f"{where}: within_reason is missing; say why errors up to {raw.within:g} are accepted.")
    if not raw.columns or not raw.rows:
        raise ConfigError(f"{where}: expected columns and rows.")
    metric = _metric(raw.metric, where, ["cell"], default="cell")
    if metric.kind in TWO:
        raise ConfigError(f"{where}: metric.{metric.kind} takes two runs; the cells of a table are of one.")
    shared = join(common, _flat(raw.common, where, "common"))
    columns = {name: _flat(value, where, f"columns.{name}") for name, value in raw.columns.items()}
    cells = []
    for place, entry in enumerate(raw.rows):
        row = strict(_Row, entry, where, ConfigError, f"rows[{place}]")
        if len(row.published) != len(columns):
            raise ConfigError(
                f"{where}: rows[{place}].published has {len(row.published)} numbers; expected {len(columns)}, one for"
                " each column, null where there is none."
            )
        for name in row.cells:
            if name not in columns:
                raise ConfigError(f"{where}: rows[{place}].cells.{name} is no column{did_you_mean(name, columns)}")
        for (column, of_column), value in zip(columns.items(), row.published, strict=True):
            if value is None:
                continue
            if not _is_number(value):
                raise ConfigError(f"{where}: rows[{place}].published holds {value!r}; expected numbers or null.")
            overrides = None
            if row.overrides is not None:
                own = _flat(row.overrides, where, f"rows[{place}].overrides")
                cell = _flat(row.cells.get(column) or [], where, f"rows[{place}].cells.{column}")
                overrides = join(shared, of_engine(row.engine, where), of_column, own, cell)
            cells.append(Cell(row.name, column, float(value), overrides, row.engine or engine))
    if not cells:
        raise ConfigError(f"{where}: every published figure of its rows is null; expected at least one number.")
    return Table(
        raw.id,
        raw.says,
        raw.source,
        raw.confidence,
        raw.unit,
        metric,
        raw.within,
        raw.within_reason,
        tuple(columns),
        tuple(cells),
        raw.explains_miss,
        raw.remarks,
    )


def _check(raw: _Claim | _Table, where: str) -> None:
    if raw.confidence not in WEIGHTS and not raw.confidence.startswith("secondary_"):
        known = ", ".join([*WEIGHTS, "secondary_..."])
        raise ConfigError(f"{where}: confidence is '{raw.confidence}'; expected one of {known}.")
    if raw.unit not in UNITS:
        raise ConfigError(f"{where}: unit is '{raw.unit}'; expected one of {', '.join(UNITS)}.")


def _metric(node: Any, where: str, runs: Sequence[str], default: str | None = None) -> Metric:
    """A metric as written: one of KINDS with its key, then of, over or arguments."""
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where}: metric must be a mapping such as {{ratio: tokens_per_s, of: ours, over: rival}}.")
    kinds = [key for key in node if key in KINDS]
    if len(kinds) != 1:
        raise ConfigError(f"{where}: metric must have one of {', '.join(KINDS)}, got {', '.join(map(str, node))}.")
    kind = kinds[0]
    takes = {"python": ("arguments",)}.get(kind, ("of", "over") if kind in TWO else ("of",))
    for key in node:
        if key not in (kind, *takes):
            raise ConfigError(f"{where}: metric.{key} is unknown; metric.{kind} goes with {', '.join(takes)}.")
    value = node[kind]
    keys = tuple(value) if isinstance(value, list) and kind == "share" else (value,)
    if not keys or not all(isinstance(key, str) and key for key in keys):
        raise ConfigError(f"{where}: metric.{kind} must be text, got {value!r}.")
    if kind == "python":
        return Metric(kind, keys, arguments=dict(node.get("arguments") or {}))
    names = []
    for side in takes:
        name = node.get(side, default)
        if name is None:
            raise ConfigError(f"{where}: metric.{side} is missing; it names one of the runs.")
        if name not in runs:
            raise ConfigError(f"{where}: metric.{side} is '{name}', which is no run{did_you_mean(str(name), runs)}")
        names.append(name)
    return Metric(kind, keys, *names)


def join(*parts: Overrides) -> Overrides:
    """Overrides one after the other; of those for one key the last counts. No clairvoyant reference unless asked."""
    kept = {"reference": "reference=false"}
    for override in (item for part in parts for item in part):
        key = override.partition("=")[0].lstrip("+")
        kept[key] = override
    return tuple(kept.values())


def _flat(value: Any, where: str, key: str) -> Overrides:
    """A list of overrides; lists in it (of YAML aliases) are opened."""
    if not isinstance(value, list):
        raise ConfigError(f"{where}: {key} must be a list of overrides, got {value!r}.")
    found: list[str] = []
    for item in value:
        if isinstance(item, list):
            found += _flat(item, where, key)
        elif isinstance(item, str) and "=" in item:
            found.append(item)
        else:
            raise ConfigError(f"{where}: {key} holds {item!r}; expected overrides such as cache_gib=4.")
    return tuple(found)


def _range(value: Any, where: str, key: str) -> Range | None:
    """A number, or [low, high] with null for an open end."""
    if value is None:
        return None
    if _is_number(value):
        return (float(value), float(value))
    if isinstance(value, list) and len(value) == 2 and all(end is None or _is_number(end) for end in value):
        low, high = (None if end is None else float(end) for end in value)
        if (low is not None or high is not None) and (low is None or high is None or low <= high):
            return (low, high)
    raise ConfigError(f"{where}: {key} is {value!r}; expected a number, or [low, high] with null for an open end.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
