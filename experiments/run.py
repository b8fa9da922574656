"""From a configuration to a result, and from a result to a folder of files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from experiments.explain import ConfigError
from experiments.policy import make_policy, source_digest
from experiments.schema import TraceFields, roles
from hwmodels import Device, Platform
from simulator.layout_choice import LayoutChoice
from simulator.model import ModelSpec
from simulator.plan import Workload
from simulator.pools.spec import NAMES, Pool, Pools
from simulator.scenario import Scenario, Settings, System
from simulator.tenants.spec import Tenants
from traces import Trace, data_path, open_trace

if TYPE_CHECKING:
    from simulator.result import Result
    from traces.synthesis.recipe import Recipe

T = TypeVar("T")
GIB = 2**30
KEPT = 256  # models, platforms, policies or traces of each kind kept between runs of one process
TABLES = ("steps", "requests", "layers", "experts", "devices", "links", "energy")
MARK = "provenance.json"  # a folder that holds it, and nothing that we do not write, is a run folder of ours
DRAWS = "draws.parquet"
FILES = (MARK, "summary.json", "config.yaml", "timeline.json", DRAWS, *(f"{table}.parquet" for table in TABLES))
_AT_LEAST = {"settings.workspace_bytes": 0, "settings.chunk_bytes": 1, "settings.io_threads": 1, "seed": 0}
_AT_LEAST |= {"settings.framework_layer_s": 0}
_AT_LEAST |= {"uncertainty.draws": 0, "uncertainty.seed": 0}


def plain(cfg: Mapping[Any, Any]) -> dict[str, Any]:
    """A composed configuration as plain nested dicts and lists; a plain one as it is."""
    content: Any = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else cfg
    assert isinstance(content, dict)
    return content


def scenario_from_config(cfg: Mapping[str, Any]) -> Scenario:
    """The scenario that a composed configuration, or its plain form, describes.

    What was read before is not read again: models, platforms and policies are kept by content, traces by file.
    Raises ModelError, PlatformError, TraceError or ConfigError, one sentence each.
    """
    cfg = plain(cfg)
    check_numbers(cfg)
    settings = Settings(
        cache_bytes=_bytes(cfg["cache_gib"]),
        host_cache_bytes=_bytes(cfg["host_cache_gib"]),
        seed=cfg["seed"],
        timeline=cfg["timeline"],
        reference=cfg["reference"],
        **cfg["settings"],
    )
    return Scenario(
        model=_model(cfg["model"]),
        trace=trace_of(cfg),
        platform=_platform(cfg["platform"]),
        system=System(
            name=cfg["system"]["name"] or "custom",
            **{role: _policy(cfg["policy"][role], role, _digest(cfg["policy"][role])) for role in roles()},
        ),
        workload=Workload(**cfg["workload"]),
        settings=settings,
        tenants=Tenants(**cfg["tenants"]),
        layout=LayoutChoice(**cfg["layout"]),
        pools=_pools(cfg),
    )


def _pools(cfg: Mapping[str, Any]) -> Pools | None:
    """The pools of a configuration, None if nothing of them is set."""
    made = {}
    for name in NAMES:
        node, role = cfg["pools"][name], cfg["policy"]["scheduling"]
        own = node["scheduling"]
        policy = make_policy({**role, **own}, "scheduling", f"pools.{name}.scheduling") if own else None
        made[name] = Pool(node["replicas"], LayoutChoice(**node["layout"]), policy)
    pools = Pools(**made, dealing=cfg["pools"]["dealing"])
    return None if pools == Pools() else pools


def _by_content(read: Callable[..., T]) -> Callable[..., T]:
    """Keep what `read` made of a mapping, by the mapping's content; the oldest go when there are many."""
    kept: dict[Any, T] = {}

    @functools.wraps(read)
    def wrapped(node: Any, *rest: Any) -> T:
        key = (repr(node), *rest)
        if key not in kept:
            if len(kept) >= KEPT:
                del kept[next(iter(kept))]
            kept[key] = read(node, *rest)
        return kept[key]

    return wrapped


@_by_content
def _model(node: Mapping[str, Any]) -> ModelSpec:
    return ModelSpec.from_mapping(node, f"model {node.get('name', '')}".strip())


@_by_content
def _platform(node: Mapping[str, Any]) -> Platform:
    """Devices that are alike on several platforms are one object, so that the tables of their costs are made once."""
    platform = Platform.from_mapping(node, f"platform {node.get('name', '')}".strip())
    return replace(platform, devices={name: _alike(device) for name, device in platform.devices.items()})


@_by_content
def _alike(device: Device) -> Device:
    return device


@_by_content
def _policy(node: Mapping[str, Any], role: str, digest: str) -> Callable[[], Any]:
    return make_policy(node, role)


def _digest(node: Mapping[str, Any]) -> str:
    """Of a policy's source, so that one of the user's own is made anew once its file has changed."""
    return source_digest(str(node.get("_target_")))


@_by_content
def _trace(path: Path, stamp: tuple[int, int]) -> Trace:
    return open_trace(path)


def trace_recipe(node: Mapping[str, Any]) -> Recipe | None:
    """How the trace of a configuration's `trace` is made; None if it is a file.

    Raises ConfigError unless the node has either a path or a profile, TraceError as `Recipe.from_mapping`.
    """
    where = f"trace {node['name']}"
    keys = [field.name for field in dataclasses.fields(TraceFields) if field.name not in ("name", "path", "steps")]
    made = [key for key in keys if node.get(key) is not None]
    if node.get("path") is not None:
        if made:
            raise ConfigError(f"{where}: it has path and {made[0]}; a file is as it is, so expected one of the two.")
        return None
    if node.get("profile") is None:
        raise ConfigError(f"{where}: it has neither path nor profile; expected one of them.")
    from traces.synthesis.recipe import Recipe

    return Recipe.from_mapping(plain(node), where)


def trace_path(node: Mapping[str, Any]) -> Path:
    """The file of a configuration's `trace`, drawn and transformed now if that was not done before.

    Raises as `trace_recipe`, `data_path`, `Recipe.path` and `traces.transforms.run_steps`.
    """
    recipe = trace_recipe(node)
    path = data_path(node["path"]) if recipe is None else recipe.path()
    if not node.get("steps"):
        return path
    from traces.transforms._kept import kept

    return kept(path, list(node["steps"]))


def trace_of(cfg: Mapping[str, Any]) -> Trace:
    """The trace a configuration names, opened once for as long as its file stays as it is."""
    path = trace_path(cfg["trace"])
    stat = path.stat() if path.is_file() else None
    return _trace(path, (stat.st_mtime_ns, stat.st_size) if stat else (0, 0))


def run_config(cfg: Mapping[str, Any], progress: Callable[[int], None] | None = None) -> Result:
    """Run a composed configuration; `progress(tokens)` is called for every step.

    Raises the one-sentence errors of `scenario_from_config` and of the simulator's `build`.

    >>> from experiments.compose import compose_config
    >>> overrides = ["cache_gib=4", "workload.requests=1", "workload.max_decode_tokens=4"]
    >>> result = run_config(compose_config([*overrides, "reference=false"]))
    >>> result.summary["decode_tokens"], round(result.summary["hit_rate"], 3)
    (4, 0.448)
    """
    from simulator.result import simulate

    result = simulate(scenario_from_config(cfg), progress)
    wanted = cfg["uncertainty"]
    if wanted["draws"]:
        from experiments.uncertainty import calibration_draws

        result.draws = calibration_draws(result, wanted["draws"], wanted["seed"])
    return result


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else round(gib * GIB)


def check_numbers(cfg: Mapping[str, Any]) -> None:
    """Raise ConfigError for values that no run can have, whatever the model and platform."""
    for key, least in _AT_LEAST.items():
        group, _, name = key.rpartition(".")
        value = cfg[group][name] if group else cfg[name]
        if value < least:
            raise ConfigError(f"{key} is {value}; expected at least {least}.")
    if not cfg["out"] and (
        not cfg["name"].strip() or ".." in Path(cfg["name"]).parts or Path(cfg["name"]).is_absolute()
    ):
        raise ConfigError(f"name is '{cfg['name']}'; expected text that can name a folder.")
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
    content = {key: value for key, value in plain(cfg).items() if key != "out"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_folder(folder: Path, ours: Collection[str] = FILES, mark: str = MARK) -> None:
    """Raise ConfigError unless `folder` can be written and is new, empty, or holds `mark` and only files of `ours`."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out={folder}: there is a file of that name; expected a folder.")
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    strange = [name for name in held if name not in ours] or (held if mark not in held else [])
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
    table, draws.parquet if constants were drawn, and timeline.json if `timeline` is set. A folder that is not a run
    folder is not touched.
    Raises ConfigError for a folder that cannot be used, OSError if writing fails.
    """
    with replaced(folder) as temporary:
        write_json(temporary / "summary.json", result.summary)
        write_json(temporary / MARK, {**result.provenance, "config_sha256": config_hash(cfg)})
        content = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "out"])
        (temporary / "config.yaml").write_text(OmegaConf.to_yaml(content, resolve=True), encoding="utf-8")
        for table in TABLES:
            write_table(getattr(result, table), temporary / f"{table}.parquet")
        if result.draws:
            import pandas as pd

            write_table(pd.DataFrame(result.draws), temporary / DRAWS)
        if cfg.timeline:
            write_timeline(result, temporary / "timeline.json")
    return sorted(folder.iterdir())


def write_timeline(result: Result, path: Path) -> None:
    """Write the Chrome trace of a run made with `timeline`."""
    from simulator.chrome_trace import chrome_trace, write_chrome_trace

    write_chrome_trace(path, chrome_trace(result.run))


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
