"""`moesim run`: simulate, write the run folder, and say what came out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from omegaconf import DictConfig

from experiments.compose import compose_config, expand
from experiments.explain import ConfigError
from experiments.run import check_folder, check_numbers, run_config, run_folder, write_result
from experiments.table import summary_table


def main(options: argparse.Namespace) -> int:
    """Run what the overrides describe, one run or every combination."""
    from rich.console import Console

    runs = [(options.overrides, None)] if not options.multirun else _named(options.overrides)
    configs = []
    for overrides, label in runs:
        cfg = compose_config(overrides)
        if label is not None:
            base = run_folder(cfg)
            cfg.out = str(base.with_name(f"{base.name}_sweep") / label)
        check_numbers(cfg)
        check_folder(run_folder(cfg))
        configs.append(cfg)
    console = Console(highlight=False, soft_wrap=True)
    written = []
    with progress_bar(configs, options.quiet or options.json) as track:
        for number, cfg in enumerate(configs):
            try:
                result = run_config(cfg, track(number))
            except ValueError as error:
                raise ConfigError(f"{runs[number][1]}: {error}" if options.multirun else str(error)) from None
            folder = run_folder(cfg)
            write_result(result, cfg, folder)
            entry = {
                "name": cfg.name,
                "system": cfg.system.name,
                "out": folder.as_posix(),
                "remarks": list(result.provenance["remarks"]),
                "summary": result.summary,
            }
            written.append(entry)
            if not (options.quiet or options.json):
                console.print(summary_table(entry, cfg))
                console.print(f"written to {folder.as_posix()}")
    if options.json and not options.quiet:
        print(json.dumps(written if options.multirun else written[0], indent=2, ensure_ascii=False))
    return 0


def _named(overrides: list[str]) -> list[tuple[list[str], str | None]]:
    """The runs of a sweep, each with the name of its folder: what distinguishes it."""
    runs = expand(overrides)
    varied = [len({run[place] for run in runs}) > 1 for place in range(len(runs[0]))] if runs else []
    labels = []
    for run in runs:
        parts = [item for item, varies in zip(run, varied, strict=True) if varies]
        labels.append(",".join(parts).replace("/", ".").replace("'", "") or "0")
    if len(set(labels)) < len(labels) or any(len(label) > 200 for label in labels):
        labels = [str(number) for number in range(len(runs))]
    return list(zip(runs, labels, strict=True))


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


def tokens_of(cfg: DictConfig) -> int | None:
    """Tokens a run will process, from the trace's request table; None if that cannot be said."""
    from traces import TraceError, data_path, open_trace

    try:
        requests = open_trace(data_path(cfg.trace.path)).requests
    except TraceError:
        return None
    work = cfg.workload
    if work.synthetic_prefill or (work.requests or 1) < 1 or work.first_request < 0:
        return None
    stop = None if work.requests is None else work.first_request + work.requests
    total = 0
    for info in requests[work.first_request : stop]:
        decode = info.decode_tokens + info.unknown_tokens
        total += info.prefill_tokens + min(decode, work.max_decode_tokens or decode)
    return total
