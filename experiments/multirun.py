"""Hydra's own multirun, by its basic launcher or by a plug-in's (joblib, submitit, Ray): `hydra/launcher=NAME`."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TextIO, cast

from omegaconf import DictConfig

from experiments.explain import ConfigError, one_sentence

LAUNCHER = ("hydra/launcher=", "hydra.launcher.", "+hydra.launcher.", "++hydra.launcher.")
_EXTRAS = {"joblib": "parallel", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}


def split_launcher(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """(overrides of the run, overrides of Hydra's launcher)."""
    launcher = [item for item in overrides if item.startswith(LAUNCHER)]
    return [item for item in overrides if item not in launcher], launcher


def multirun(
    config: Path, overrides: Sequence[str], launcher: Sequence[str], folder: Path, task: Callable[..., None]
) -> None:
    """Have Hydra run `task(cfg)` for every combination of the overrides, on the launcher chosen.

    All that varies has to be among the overrides. config: the primary configuration file; folder: for Hydra's own
    record of the sweep, `multirun.yaml`. `task` must be picklable; what it raises is raised here, once all jobs
    are through.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    own = [
        f"hydra.sweep.dir='{folder.as_posix()}'",
        "hydra.sweep.subdir=.",
        "hydra.output_subdir=null",
        "hydra.sweeper.params=null",  # an experiment's are among the overrides
        "hydra/job_logging=disabled",
        "hydra/hydra_logging=disabled",
        *launcher,
    ]
    decorate = hydra.main(version_base="1.3", config_path=str(config.parent), config_name=config.stem)
    try:
        with _command_line(["moesim", "-m", *overrides, *own]):
            decorate(task)()
    except HydraException as error:
        for item in launcher:
            name = item.partition("=")[2]
            if item.startswith("hydra/launcher=") and f"'hydra/launcher/{name}'" in str(error):
                extra = f"; pip install 'moesim[{_EXTRAS[name]}]' brings it" if name in _EXTRAS else ""
                raise ConfigError(f"{item}: this launcher is not installed{extra}.") from None
        raise ConfigError(one_sentence(error)) from None
    except BrokenExecutor:
        raise ConfigError("a process was killed (out of memory?); the runs that finished are kept.") from None
    finally:
        GlobalHydra.instance().clear()


@contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Hydra reads its overrides from sys.argv, and lets errors through only if told by the environment."""
    before, told = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = arguments
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with redirect_stderr(cast(TextIO, _Quieter(sys.stderr))):
            yield
    finally:
        sys.argv = before
        if told is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = told


class _Quieter:
    """A stream without Hydra's line that a job failed, as the error itself is raised and says more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if text.startswith("Error executing job with overrides") else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def named(task: Callable[..., None], *arguments: Any) -> Callable[[DictConfig], None]:
    """`task(*arguments, cfg)` as a function of cfg that Hydra accepts and can pickle."""
    return functools.update_wrapper(functools.partial(task, *arguments), task)
