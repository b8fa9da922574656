"""The phone: constants fitted on one recorded run, the other runs predicted with them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.compose import CONF
from experiments.explain import ConfigError
from experiments.validation.phone_fit import STRUCTURES, Constants, Simulated, calibrate, fit_compute, simulated
from experiments.validation.phone_routes import WARM_UP, miss_rate, write_routes
from experiments.validation.phone_runs import PLATFORM, RecordedRun, recorded_runs

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("wall_s", "compute_s", "stall_s", "management_s")
CHOSEN = "arithmetic"
CALIBRATED = f"{PLATFORM}_calibrated"


@dataclass(frozen=True, eq=False)
class Comparison:
    """A recorded run beside its simulation; with its own routes the tokens are the same, else only their means."""

    run: RecordedRun
    routed: bool
    simulation: Simulated
    interruptions: float

    @property
    def tokens(self) -> pd.DataFrame:
        """Of the simulation."""
        return self.simulation.tokens

    def measured_s(self, part: str) -> float:
        """Mean over undisturbed tokens, of one of PARTS."""
        return float(self.run.tokens.loc[self.run.undisturbed, part].mean())

    def predicted_s(self, part: str) -> float:
        """Mean over the same tokens or, without the run's routes, over all of the simulation."""
        chosen = self.tokens[self.run.undisturbed.to_numpy()] if self.routed else self.tokens
        return float(chosen[part].mean())

    def error(self, part: str = "wall_s") -> float:
        """Predicted over measured, less one."""
        return self.predicted_s(part) / self.measured_s(part) - 1

    @property
    def all_measured_s(self) -> float:
        """Mean wall time over all tokens."""
        return float(self.run.tokens["wall_s"].mean())

    @property
    def all_predicted_s(self) -> float:
        """The same predicted: interruptions take the share of compute that they took in the training run."""
        return float((self.tokens["wall_s"] + self.interruptions * self.tokens["compute_s"]).mean())

    @property
    def same_misses(self) -> int:
        """In how many tokens the simulation misses as often as the device did."""
        return int((self.tokens["misses"] == self.run.tokens["misses"]).sum())


@dataclass(frozen=True, eq=False)
class Validation:
    """All that a report tells.

    comparisons: every run; drawn: runs with routes as if they had none; structures: structure -> its constants, and
    the runs whose work per token is not that of the training run; uncalibrated: run -> simulated
    mean wall seconds of undisturbed tokens on the platform as it is, with weights as stored and with those outside
    experts in 16 bits.
    """

    training: RecordedRun
    constants: Constants
    comparisons: list[Comparison]
    drawn: list[Comparison]
    structures: dict[str, tuple[Constants, list[Comparison]]]
    uncalibrated: dict[str, tuple[float, float]]

    def table(self) -> pd.DataFrame:
        """One row per run and token: measured_*, undisturbed and, where the run's own routes are known, simulated_*."""
        import pandas as pd

        tables = []
        for compared in self.comparisons:
            recorded, simulated = compared.run.tokens, compared.tokens
            rows = recorded[["run", "token"]].copy()
            for part in (*PARTS, "misses"):
                rows[f"measured_{part}"] = recorded[part]
                rows[f"simulated_{part}"] = simulated[part] if compared.routed else None
            rows["undisturbed"] = compared.run.undisturbed
            tables.append(rows)
        return pd.concat(tables, ignore_index=True)


@dataclass
class _Simulations:
    """Simulations of recorded runs; those on equal drawn routes are done once."""

    like: RecordedRun
    folder: Path
    paths: dict[Any, Path] = field(default_factory=dict)
    kept: dict[Any, Simulated] = field(default_factory=dict)

    def own(self, run: RecordedRun, cpu: dict[str, Any]) -> Simulated:
        """On the routes of the run itself."""
        assert run.trace is not None
        key = (*run.overrides(run.trace), repr(cpu))
        if key not in self.kept:
            self.kept[key] = simulated(run.config(run.trace), cpu)
        return self.kept[key]

    def drawn(self, run: RecordedRun, cpu: dict[str, Any]) -> Simulated:
        """On drawn routes with the run's mean miss rate."""
        from traces import data_path, open_trace

        source = run.trace or self.like.trace
        assert source is not None
        if run.model != self.like.model and run.trace is None:
            raise ConfigError(f"run {run.name}: it has neither routes nor the model of the training run.")
        like = open_trace(data_path(f"{source}.parquet"))
        drawn = (run.top_k, len(run.tokens), run.prompt_tokens, miss_rate(run, like))
        if (source, drawn) not in self.paths:
            path = self.paths[source, drawn] = self.folder / f"{len(self.paths)}.parquet"
            write_routes(path, like.meta, *drawn)
        config = run.config(source)
        config["trace"] = {"name": "drawn", "path": str(self.paths[source, drawn])}
        key = (source, drawn, run.cache_mib, repr(cpu))
        if key not in self.kept:
            self.kept[key] = simulated(config, cpu, WARM_UP)
        return self.kept[key]


def validate() -> Validation:
    """Fit on the training run, predict all. Raises ConfigError if the shipped data do not fit together."""
    runs, name = recorded_runs()
    training = next(run for run in runs if run.name == name)
    with tempfile.TemporaryDirectory() as folder:
        simulations = _Simulations(training, Path(folder))

        def compared(run: RecordedRun, constants: Constants, routed: bool) -> Comparison:
            simulate = simulations.own if routed else simulations.drawn
            return Comparison(run, routed, simulate(run, constants.cpu), constants.interruptions)

        constants = calibrate(training, CHOSEN)
        traced = [run for run in runs if run.trace is not None]
        structures = {}
        for structure in STRUCTURES:
            if structure == CHOSEN:
                fitted = constants
            else:
                fitted = replace(constants, structure=structure, compute=fit_compute(training, structure))
            telling = [run for run in runs if (run.model, run.top_k) != (training.model, training.top_k)]
            structures[structure] = (fitted, [compared(run, fitted, run.trace is not None) for run in telling])
        uncalibrated = {}
        for run in traced:
            good = run.undisturbed.to_numpy()
            plain_run = replace(run, bits={})
            means = [simulations.own(each, {}).tokens.loc[good, "wall_s"].mean() for each in (run, plain_run)]
            uncalibrated[run.name] = (float(means[0]), float(means[1]))
        return Validation(
            training=training,
            constants=constants,
            comparisons=[compared(run, constants, run.trace is not None) for run in runs],
            drawn=[compared(run, constants, False) for run in traced],
            structures=structures,
            uncalibrated=uncalibrated,
        )


def calibrated_platform(constants: Constants) -> str:
    """The uncalibrated platform's file with the fitted fields, as YAML text."""
    import yaml

    content = yaml.safe_load((CONF / "platform" / f"{PLATFORM}.yaml").read_text(encoding="utf-8"))
    content["name"] = CALIBRATED
    content["description"] = f"As {PLATFORM}, with compute and cache management fitted to one recorded run."
    cpu = content["devices"]["cpu"]
    source = cpu.pop("source").replace("Not fitted to any recorded run", "Not fitted").rstrip(". ")
    cpu.update(constants.cpu)
    cpu["origin"] = {**cpu.pop("origin", {}), **dict.fromkeys(constants.cpu, "fitted")}
    cpu["source"] = (
        f"{source}. compute_efficiency, cache_lookup_s and cache_evict_s_per_byte are fitted to the recorded run of"
        " Qwen3-30B-A3B (docs/validation/phone.md), in which the cores were capped at 1.65 to 2.19 GHz"
    )
    head = "# written by `moesim validate phone`\n"
    return head + yaml.safe_dump(content, sort_keys=False, width=118, allow_unicode=True)
