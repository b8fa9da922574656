"""From a configuration to a result, and from a result to a folder of files."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from experiments.explain import ConfigError
from experiments.policy import make_policy
from experiments.schema import roles
from hwmodels import Platform
from simulator.model import ModelSpec
from simulator.plan import Workload
from simulator.scenario import Scenario, Settings, System
from traces import data_path, open_trace

if TYPE_CHECKING:
    from simulator.result import Result

GIB = 2**30
TABLES = ("steps", "requests", "layers", "experts", "devices", "links")
MARK = "provenance.json"  # a folder that holds it, and nothing that we do not write, is a run folder of ours
FILES = (MARK, "summary.json", "config.yaml", "timeline.json", *(f"{table}.parquet" for table in TABLES))
_AT_LEAST = {"settings.workspace_bytes": 0, "settings.chunk_bytes": 1, "settings.io_threads": 1, "seed": 0}


def scenario_from_config(cfg: DictConfig) -> Scenario:
    """The scenario that a composed configuration describes.

    Raises ModelError, PlatformError, TraceError or ConfigError, one sentence each.
    """
    check_numbers(cfg)
    settings = Settings(
        cache_bytes=_bytes(cfg.cache_gib),
        host_cache_bytes=_bytes(cfg.host_cache_gib),
        seed=cfg.seed,
        timeline=cfg.timeline,
        reference=cfg.reference,
        **cfg.settings,
    )
    return Scenario(
        model=ModelSpec.from_mapping(cfg.model, f"model {cfg.model.get('name', '')}".strip()),
        trace=open_trace(data_path(cfg.trace.path)),
        platform=Platform.from_mapping(cfg.platform, f"platform {cfg.platform.get('name', '')}".strip()),
        system=System(
            name=cfg.system.name or "custom", **{role: make_policy(cfg.policy[role], role) for role in roles()}
        ),
        workload=Workload(**cfg.workload),
        settings=settings,
    )


def run_config(cfg: DictConfig, progress: Callable[[int], None] | None = None) -> Result:
    """Run a composed configuration; `progress(tokens)` is called for every step.

    Raises the one-sentence errors of `scenario_from_config` and of the simulator's `build`.
    """
    from simulator.result import simulate

    return simulate(scenario_from_config(cfg), progress)


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else round(gib * GIB)


def check_numbers(cfg: DictConfig) -> None:
    """Raise ConfigError for values that no run can have, whatever the model and platform."""
    for key, least in _AT_LEAST.items():
        value = OmegaConf.select(cfg, key)
        if value < least:
            raise ConfigError(f"{key} is {value}; expected at least {least}.")
    if not cfg.out and (not cfg.name.strip() or ".." in Path(cfg.name).parts):
        raise ConfigError(f"name is '{cfg.name}'; expected text that can name a folder.")
    for key in ("cache_gib", "host_cache_gib"):
        value = cfg[key]
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{key} is {value}; expected a size above 0 in GiB, or null.")


# ---- run folders


def run_folder(cfg: DictConfig) -> Path:
    """Where the run is written: `out`, or runs/<name>."""
    return Path(cfg.out).expanduser() if cfg.out else Path("runs") / cfg.name


def config_hash(cfg: DictConfig) -> str:
    """SHA-256 of the configuration without `out`, hexadecimal."""
    content = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(content, dict)
    content.pop("out")
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_folder(folder: Path, ours: Collection[str] = FILES) -> None:
    """Raise ConfigError unless `folder` can be written and is new, empty or a run folder with files of `ours`."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out={folder}: there is a file of that name; expected a folder.")
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    strange = [name for name in held if name not in ours] or (held if MARK not in held else [])
    if strange:
        raise ConfigError(f"out={folder}: the folder holds '{strange[0]}', which is no part of a run; choose another.")
    parent = next(path for path in (folder.parent, *folder.parent.parents) if path.exists())
    try:
        tempfile.TemporaryDirectory(dir=parent).cleanup()
    except OSError as error:
        raise ConfigError(f"out={folder}: cannot write in {parent} ({(error.strerror or '').lower()}).") from None


@contextmanager
def replaced(folder: Path, ours: Collection[str] = FILES) -> Iterator[Path]:
    """A temporary folder beside `folder` which takes its place at the end, and vanishes on an error."""
    check_folder(folder, ours)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_result(result: Result, cfg: DictConfig, folder: Path) -> list[Path]:
    """Write a result to `folder`, all or nothing, and return the files. The same run gives the same bytes.

    summary.json, provenance.json (with the hash of the configuration), config.yaml, one Parquet file per
    table, and timeline.json if `timeline` is set. A folder that is not a run folder is not touched.
    Raises ConfigError for a folder that cannot be used, OSError if writing fails.
    """
    with replaced(folder) as temporary:
        write_json(temporary / "summary.json", result.summary)
        write_json(temporary / MARK, {**result.provenance, "config_sha256": config_hash(cfg)})
        content = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "out"])
        (temporary / "config.yaml").write_text(OmegaConf.to_yaml(content, resolve=True), encoding="utf-8")
        for table in TABLES:
            write_table(getattr(result, table), temporary / f"{table}.parquet")
        if cfg.timeline:
            write_timeline(result, temporary / "timeline.json")
    return sorted(folder.iterdir())


def write_timeline(result: Result, path: Path, limit_ps: int | None = None) -> None:
    """Write the Chrome trace of a run made with `timeline`, up to `limit_ps`."""
    from simulator.timeline import chrome_trace, write_chrome_trace

    run = result.run
    trace = chrome_trace(run.timeline or [], run.fabric.log or [], run.scenario.model.experts, limit_ps)
    write_chrome_trace(path, trace)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON, keys as they come."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_table(table: Any, path: Path) -> None:
    """Write a DataFrame as Parquet or, by the path's suffix, CSV."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == ".csv":
        table.to_csv(path, index=False, lineterminator="\n")
    else:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), path, compression="zstd")
