"""`moesim run`: simulate, write the run folder, and say what came out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.compose import (
    CONF,
    axes,
    checked,
    compose_config,
    force,
    name_system,
    read_yaml,
    restore,
    search_path,
)
from experiments.estimate import describe, tokens_of
from experiments.explain import ConfigError, in_own_policy
from experiments.multirun import multirun, named, split_launcher
from experiments.run import MARK, check_folder, check_numbers, plain, run_config, run_folder, write_result
from experiments.sweep.points import points
from experiments.table import summary_table


def main(options: argparse.Namespace) -> int:
    """Run what the overrides describe, one run or every combination."""
    hidden = options.quiet or options.json
    if options.dry_run:
        overrides, _ = split_launcher(options.overrides)
        several = options.multirun
        print(describe([p.config for p in points(overrides)] if several else [plain(compose_config(overrides))]))
        return 0
    if options.multirun:
        entries = _multirun(options.overrides, hidden)
    else:
        cfg = compose_config(options.overrides)
        check_numbers(cfg)
        check_folder(run_folder(cfg))
        with progress_bar([cfg], hidden) as track:
            entries = [_run(cfg, hidden, track(0))]
    if options.json:
        print(json.dumps(entries if options.multirun else entries[0], indent=2, ensure_ascii=False))
    return 0


def _run(cfg: DictConfig, hidden: bool, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Run, write the folder, print the table unless hidden, and return what `--json` prints."""
    from rich.console import Console

    try:
        result = run_config(cfg, progress)
    except SystemExit as error:  # of a policy of somebody's own
        raise ConfigError(f"a policy left the program (exit code {error.code}); it must return instead.") from None
    folder = run_folder(cfg)
    write_result(result, cfg, folder)
    entry = {
        "name": cfg.name,
        "system": cfg.system.name,
        "out": folder.as_posix(),
        "remarks": list(result.provenance["remarks"]),
        "summary": result.summary,
    }
    if not hidden:
        console = Console(highlight=False, soft_wrap=True)
        console.print(summary_table(entry, cfg))
        console.print(f"written to {folder.as_posix()}")
    return entry


# ---- every combination, by Hydra


def _multirun(overrides: list[str], hidden: bool) -> list[dict[str, Any]]:
    """Run every combination with Hydra's launchers, each in a folder named after what distinguishes it."""
    overrides, launcher = split_launcher(overrides)
    listed = points(overrides)  # refuses what cannot be composed, before anything runs
    labels = _labels([point.overrides for point in listed])
    base = run_folder(compose_config(listed[0].overrides))
    base = base.with_name(f"{base.name}_multirun")
    for point, label in zip(listed, labels, strict=True):
        try:
            check_numbers(point.config)
        except ConfigError as error:
            raise ConfigError(f"{label}: {error}") from None
        check_folder(base / label)
    names = {_key(point.overrides): (label, point.overrides) for point, label in zip(listed, labels, strict=True)}
    told = {item.partition("=")[0].lstrip("+~") for item in overrides}
    values = {key: [item.partition("=")[2] for item in items] for key, items in axes(overrides).items()}
    extra = [f"{key}={','.join(items)}" for key, items in values.items() if key.lstrip("+~") not in told]
    with search_path([*overrides, *extra]) as (rewritten, sources):
        job = named(_job, names, sources, base, hidden)
        multirun(CONF / "config.yaml", [force(item) for item in rewritten], launcher, base, job)
    return [_entry(base / label) for label in labels]


Names = dict[frozenset[tuple[str, str]], tuple[str, Sequence[str]]]  # of overrides: (folder, the overrides as given)


def _job(names: Names, sources: dict[str, str], base: Path, hidden: bool, cfg: DictConfig) -> None:
    """One run of a multirun, perhaps in a process or on a machine of its own."""
    from hydra.core.hydra_config import HydraConfig

    made = [restore(item, sources) for item in HydraConfig.get().overrides.task if not item.startswith("hydra.")]
    label, given = names[_key(made)]
    cfg = checked(cfg)
    name_system(cfg, given)
    cfg.out = str(base / label)
    try:
        _run(cfg, hidden)
    except Exception as error:
        said = in_own_policy(error)
        if said is None and not isinstance(error, ValueError):
            raise
        raise ConfigError(f"{label}: {said or error}") from None


def _key(overrides: Sequence[str]) -> frozenset[tuple[str, str]]:
    """Overrides whatever their order, and however Hydra writes their values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return frozenset((item.get_key_element().lstrip("+"), item.get_value_element_as_str()) for item in parsed)


def _entry(folder: Path) -> dict[str, Any]:
    """What `--json` prints of a run, from its folder."""
    summary, provenance = (json.loads((folder / name).read_text()) for name in ("summary.json", MARK))
    return {
        "name": read_yaml(folder / "config.yaml").name,
        "system": provenance["system"],
        "out": folder.as_posix(),
        "remarks": provenance["remarks"],
        "summary": summary,
    }


def _labels(runs: Sequence[Sequence[str]]) -> list[str]:
    """The names of the folders of a multirun: what distinguishes each run."""
    varied = [len({run[place] for run in runs}) > 1 for place in range(len(runs[0]))]
    labels = []
    for run in runs:
        parts = [item for item, varies in zip(run, varied, strict=True) if varies]
        labels.append(",".join(parts).replace("/", ".").replace("'", "") or "0")
    if len(set(labels)) < len(labels) or any(len(label) > 200 for label in labels):
        labels = [str(number) for number in range(len(runs))]
    return labels


@contextmanager
def progress_bar(configs: list[DictConfig], hidden: bool) -> Iterator[Callable[[int], Callable[[int], None] | None]]:
    """A live bar over the tokens of all runs on a terminal, nothing elsewhere.

    Gives a function from the number of a run to its progress callback.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if hidden or not console.is_terminal:
        yield lambda number: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    counts = [tokens_of(cfg) for cfg in configs]
    total = None if None in counts else sum(count or 0 for count in counts)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("tokens", total=total)

        def track(number: int) -> Callable[[int], None]:
            place = "" if len(configs) == 1 else f" {number + 1}/{len(configs)}"
            progress.update(task, description=f"{configs[number].name}{place}: tokens")
            return lambda tokens: progress.advance(task, tokens)

        yield track
