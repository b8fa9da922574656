"""Synthetic traces by name: drawn from a profile once, kept in the user's cache folder, opened from there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from traces.reader import open_trace
from traces.schema import TraceError
from traces.synthesis.guesses import recall_table
from traces.synthesis.model import RoutingModel
from traces.synthesis.profile import FOLDER, Profile, draw_model, load_profile
from traces.synthesis.write import synthesize

CACHE = "MOESIM_CACHE"  # environment variable: folder of generated traces
_MOST = 2**20  # requests, and tokens of each


@dataclass(frozen=True)
class Recipe:
    """How a trace is made from a profile.

    profile        name of a shipped profile, or a YAML's path
    requests       how many
    prompt_tokens, decode_tokens  of each
    seed           of all that is drawn
    probabilities  also write the probabilities of all experts
    guesses        null, or `recall`: for each distance in layers a recall, or one for each guessed layer
    """

    profile: str
    requests: int = 40
    prompt_tokens: int = 64
    decode_tokens: int = 128
    seed: int = 0
    probabilities: bool = False
    guesses: Mapping[str, Any] | None = None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "trace") -> Recipe:
        """The recipe that a trace's YAML holds, null where a key keeps its default; `name` and `path` do not count.

        Raises TraceError, one sentence that begins with `where`, for a number that cannot be, or other guesses.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        found = cls(**{name: values[name] for name in names if values.get(name) is not None})
        for name, least in (("requests", 1), ("prompt_tokens", 0), ("decode_tokens", 0), ("seed", 0)):
            value = getattr(found, name)
            most = 2**31 if name == "seed" else _MOST
            if type(value) is not int or not least <= value <= most:
                raise TraceError(f"{where}: {name} is {value}; expected an integer from {least} to {most}.")
        if found.prompt_tokens + found.decode_tokens < 1:
            raise TraceError(f"{where}: prompt_tokens and decode_tokens are 0; expected at least one token.")
        if found.guesses is not None and (not isinstance(found.guesses, Mapping) or set(found.guesses) != {"recall"}):
            raise TraceError(f"{where}: guesses must be a mapping with the key recall.")
        return found

    def content(self) -> Profile:
        """The profile. Raises TraceError as `load_profile`."""
        return load_profile(self.profile)

    def path(self) -> Path:
        """The trace's file, drawn now if it was not before; same recipe, same bytes.

        Several processes may do so at once, and any of them may be killed: a file appears whole or not at all.
        Raises TraceError for a profile or guesses that cannot be, or a cache folder that cannot be written.
        """
        profile = self.content()
        folder = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "moesim").expanduser() / "traces"
        path = folder / f"{profile.name}-{self.digest(profile)[:16]}.parquet"
        if not _whole(path):
            try:
                self.write(profile, path)
            except OSError as error:
                why = (error.strerror or "it fails").lower()
                raise TraceError(f"{folder}: cannot write here ({why}); {CACHE} names another folder.") from None
        return path

    def digest(self, profile: Profile) -> str:
        """SHA-256, hexadecimal, of all that the file depends on: this recipe, the profile and the generator."""
        profiles = [dataclasses.asdict(profile)]
        if profile.base is not None:
            profiles.append(dataclasses.asdict(load_profile(profile.base)))
        parts = [dataclasses.asdict(dataclasses.replace(self, profile="")), profiles, _generator()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=dict).encode()).hexdigest()

    def write(self, profile: Profile, path: Path) -> None:
        """Draw the trace and write it to `path`."""
        recall = None
        if self.guesses is not None:
            where = f"{profile.name}: guesses.recall"
            recall = recall_table(self.guesses["recall"], len(profile.layers), where)
        synthesize(
            self.phased(draw_model(profile)),
            path,
            requests=self.requests,
            tokens=self.prompt_tokens + self.decode_tokens,
            seed=self.seed,
            probabilities=self.probabilities,
            recall=recall,
        )

    def phased(self, model: RoutingModel) -> RoutingModel:
        """`model` with this prompt's share, and the kinds of its requests as tasks."""
        total = self.prompt_tokens + self.decode_tokens
        phases = (self.prompt_tokens / total, self.decode_tokens / total, 0.0)
        tasks = tuple(f"kind {kind}" for kind in model.requests.kinds)
        return dataclasses.replace(model, requests=dataclasses.replace(model.requests, phases=phases, tasks=tasks))


def _whole(path: Path) -> bool:
    try:
        open_trace(path)
    except TraceError:
        return False
    return True


@cache
def _generator() -> list[str]:
    """What draws and writes: digest of its source, and versions of the libraries that decide on bytes."""
    package = FOLDER.parent
    files = [*sorted(package.glob("*.py")), package.parent / "schema.py", package.parent / "writer.py"]
    source = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return [source, np.__version__, pa.__version__]
