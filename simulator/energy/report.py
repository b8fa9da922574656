"""What a result says of energy: rows of its table, and the figures of its summary."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hwmodels.energy import EnergyUnknown
from simulator.energy import PARTS
from simulator.energy.account import PJ_PER_J, Entry, Measured, account, by, split, total_pj
from simulator.energy.carbon import carbon_g
from simulator.engine import seconds

if TYPE_CHECKING:
    from simulator.build import Run
    from simulator.runtime.record_log import RecordLog
    from simulator.runtime.worker import StepRecord

COLUMNS = tuple(field.name for field in fields(Entry) if field.name != "energy_pj") + ("energy_j",)


@dataclass(frozen=True)
class EnergyReport:
    """Of a finished run: bottom up if every constant is known, and by power (idle, and full while busy)."""

    run: Run
    records: RecordLog[StepRecord]
    duration_ps: int
    by_power_j: float

    @cached_property
    def _account(self) -> tuple[list[Entry], str]:
        try:
            return account(self.run, self._measured()), ""
        except EnergyUnknown as error:
            return [], str(error)

    @property
    def entries(self) -> list[Entry]:
        """Of the account; none if a constant is missing."""
        return self._account[0]

    @property
    def missing(self) -> str:
        """Which constant is not known; empty if there is an account."""
        return self._account[1]

    @property
    def told(self) -> str:
        """Which account leads the summary, in words."""
        return f"by power, as {self.missing}" if self.missing else "bottom up"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table `energy`, with the columns COLUMNS."""
        return [
            {name: getattr(entry, name) for name in COLUMNS[:-1]} | {"energy_j": entry.energy_pj / PJ_PER_J}
            for entry in self.entries
        ]

    def summary(self) -> dict[str, Any]:
        """`energy_j` is that of the account if there is one, else by power, None if no device states one. Of all steps,
        warm-up included."""
        records = self.records
        prompt, tokens = (int(records.column(name).sum()) for name in ("prompt_tokens", "tokens"))
        known = not self.missing
        bottom_up_j = total_pj(self.entries) / PJ_PER_J if known else None
        energy_j = (self.by_power_j or None) if bottom_up_j is None else bottom_up_j
        parts, phases = by(self.entries, "part"), by(self.entries, "phase")
        counts = {"decode": tokens - prompt, "prefill": prompt}
        given = self.run.scenario.settings.carbon_g_per_kwh
        return {
            "energy_j": energy_j,
            "energy_per_token_j": energy_j / tokens if tokens and energy_j is not None else None,
            "energy_bottom_up_j": bottom_up_j,
            "energy_by_power_j": self.by_power_j,
            **{
                f"energy_{part}_per_token_j": parts.get(part, 0) / PJ_PER_J / tokens if known and tokens else None
                for part in PARTS
            },
            **{
                f"energy_{phase}_per_token_j": phases.get(phase, 0) / PJ_PER_J / count if known and count else None
                for phase, count in counts.items()
            },
            "carbon_g": None
            if given is None or energy_j is None
            else carbon_g(energy_j, seconds(self.duration_ps), given),
        }

    def _measured(self) -> Measured:
        records = self.records
        prefill = records.column("prefill").astype(bool)
        begin_ps, end_ps = records.column("start_ps"), records.column("end_ps")
        asked = records.column("load_bytes") + records.column("prefetch_bytes")
        tokens = records.column("tokens")

        def both(column: np.ndarray) -> tuple[int, int]:
            return int(column[~prefill].sum()), int(column[prefill].sum())

        lasted_ps = both(end_ps - begin_ps)
        if self.run.ranks.stages > 1:  # steps may overlap
            lasted_ps = split(_covered_ps(begin_ps, end_ps), lasted_ps)
        return Measured(self.duration_ps, lasted_ps, both(tokens), both(asked))


def _covered_ps(begin_ps: np.ndarray, end_ps: np.ndarray) -> int:
    """How long at least one of some intervals lasts."""
    order = np.argsort(begin_ps, kind="stable")
    begins, ends = begin_ps[order], np.maximum.accumulate(end_ps[order])
    before = np.concatenate([begins[:1], ends[:-1]])
    return int(np.maximum(ends - np.maximum(begins, before), 0).sum())
