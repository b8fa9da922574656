"""The phone's recorded runs, as shipped: what was run, and what each decoded token took."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.compose import compose_config, read_yaml
from experiments.explain import ConfigError
from experiments.run import plain

if TYPE_CHECKING:
    import pandas as pd

DATA = Path(__file__).parent / "data" / "phone"
PLATFORM = "oneplus_15r"
INTERRUPTED = 1.5  # a token whose compute takes longer than so many medians of its run was interrupted
COLUMNS = ("run", "token", "wall_s", "compute_s", "stall_s", "management_s", "hit_rate", "major_faults", "misses")


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A recorded run.

    model: a choice of `model`, stored with `bits` per weight; trace: the run's own routes, a choice of `trace`,
    or None; policy: of the cache, whose size is `cache_mib`; tokens: one row per decoded token with COLUMNS,
    where wall = compute + stall + management, `hit_rate` is cumulative from the prompt on and `misses` is
    missing without routes.
    """

    name: str
    model: str
    bits: dict[str, float]
    trace: str | None
    policy: str
    top_k: int
    cache_mib: int
    prompt_tokens: int
    prefill_s: float
    tokens: pd.DataFrame

    @property
    def undisturbed(self) -> pd.Series:
        """Which tokens computed at the run's usual speed (by INTERRUPTED): the others say nothing of the model."""
        return self.tokens["compute_s"] <= INTERRUPTED * self.tokens["compute_s"].median()

    def overrides(self, trace: str) -> list[str]:
        """What `moesim run` is to be told, for routes named as in `conf/trace`."""
        sizes = [f"model.{part}={bits}" for part, bits in self.bits.items()]
        return [f"model={self.model}", f"trace={trace}", f"cache_gib={self.cache_mib / 1024:g}", *sizes]

    def config(self, trace: str) -> dict[str, Any]:
        """The plain configuration of a run of the uncalibrated platform on these routes, with an LRU cache."""
        return copy.deepcopy(_composed(tuple(self.overrides(trace))))


@functools.cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    return plain(compose_config([f"platform={PLATFORM}", "policy/cache=lru", "reference=false", *overrides]))


def recorded_runs(folder: Path = DATA) -> tuple[list[RecordedRun], str]:
    """All runs in order, and the name of the one for training.

    Raises ConfigError for a table without the columns, or a run without tokens.
    """
    import pandas as pd

    content = plain(read_yaml(folder / "runs.yaml"))
    table = pd.read_parquet(folder / "tokens.parquet")
    for column in COLUMNS:
        if column not in table:
            raise ConfigError(f"{folder / 'tokens.parquet'}: there is no column '{column}'.")
    runs = []
    for name, about in content["runs"].items():
        tokens = table[table["run"] == name].reset_index(drop=True)
        if tokens.empty:
            raise ConfigError(f"{folder / 'tokens.parquet'}: run '{name}' of runs.yaml has no row.")
        bits = content["models"][about["model"]]
        runs.append(RecordedRun(name=name, bits=bits, tokens=tokens, **{"trace": None, **about}))
    return runs, content["training"]
