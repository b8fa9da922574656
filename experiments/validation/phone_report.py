"""The page of tables that `moesim validate phone` writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from experiments.validation.phone import CALIBRATED, CHOSEN, PARTS, Comparison, Validation
from experiments.validation.phone_fit import STRUCTURES, Constants
from experiments.validation.phone_runs import INTERRUPTED, PLATFORM, RecordedRun

FIGURE = "phone"
_SAYS = {
    "arithmetic": "the cores: a share of peak FLOP/s",
    "bandwidth": "memory: a share of its bandwidth",
    "operations": "starting operations: seconds for each",
}

_INTRODUCTION = """\
# A recorded phone: one run fitted, the others predicted

Written by `moesim validate phone --out FOLDER`; do not edit. The runs are of a OnePlus 15R that streams experts from
flash ([source and licence](../../experiments/validation/data/phone/README.md)). **{training}** is the training run: the
constants below are fitted to it and to nothing else, and are the preset `{calibrated}`. Flash is read at
the rates of the phone's published read benchmark, which are not fitted. The other runs are predictions.

What was *not* blind: the times of all runs were known to the author of the fit when it was decided that arithmetic
bounds compute, what an interrupted token is, and what drives cache management; the reasons given are from the
training run and from the engine's published source.
"""
_MANAGEMENT = """\
`cache_lookup_s` is spent on every layer, `cache_evict_s_per_byte` on what is evicted: the engine gives back an evicted
expert page by page (`madvise`) on the thread that computation waits for, after it has asked for the missing ones.
"""
_UNDISTURBED = """\
## Undisturbed tokens

Mean per token in ms, measured → predicted; stall is the time in which compute waits for flash. A token is left out
here if its compute takes over {interrupted:g} medians of its run (next section). For runs without routes, experts are
drawn so that every look-up misses with the run's mean probability, which its cumulative hit rate gives; the layers and
tokens in which it misses are then unknown.
"""
_MISSES = """\
Misses: with routes, the simulation misses as often as the device in {same}.
The cache's size and policy are given, nothing about hits is.
"""
_DRAWN = """\
What drawn routes change, in the predicted wall time of runs whose routes are known (own routes → drawn):
{drawn}.
"""
_ALL = """\
## All tokens

The phone also interrupts: single tokens compute several times as long, which misses do not explain (in the training
run the correlation of the two is {related:.2f}). The simulator has no term for it. Beyond the undisturbed tokens it
took {share} of compute in the training run; with that share added to predicted compute, the mean wall time over all
tokens is:
"""
_FAULTS = """\
Gemma was interrupted less than the training run, which here makes up for stall predicted too short. The `lfu` runs are
out of reach: they swap. Their policy kept the phone short of memory, dense weights were read back
page by page (major faults), and the authors of the data attribute the extra compute to it
(`docs/bench-data/2026-07-20-cache-replay/layer-lfu-verdict.md` of the source repository).
"""
_TIME = """\
## Compute depends on time

Median compute of undisturbed tokens, first and last quarter of each run:
"""
_CLOCKS = """\
In the training run it rises by {rise}. The clock of six of the eight cores was capped at 2.19 GHz when that run
began, and at 1.90 GHz when it ended, 15.2 % more time per cycle; the two others stood at 1.65 GHz of 3.80 GHz
(`docs/bench-data/2026-07-15-route-trace/findings.md` of the source repository). The phone throttles, compute follows
the clock, and the fitted share of peak holds for a phone in this state: peak in the preset is that of the full clock.
"""
_STRUCTURES = """\
## What bounds compute

One run gives one number for compute, so what it is a share of is a choice. It is *arithmetic*, as compute follows the
clock of the cores and reaches {bandwidth} of the memory's bandwidth. All choices were fitted to the same tokens;
runs with the training run's work per token cannot tell them apart, the others can. Errors of compute, and of wall time:
"""
_CANCEL = """\
A choice with a smaller error of wall time and a larger one of compute is right by cancellation: stall is predicted too
short in every run.
"""
_UNFITTED = """\
## Nothing fitted

Undisturbed tokens on `{platform}`, datasheet peaks and default efficiencies, wall time in ms:
"""
_SIXTEEN = """\
The last column describes the weights outside experts as in the model presets, two to four times as large as they are
stored: its smaller errors are two mistakes that cancel.
"""
_LIMITS = """\
## What remains wrong

- Stall is too short in every prediction, most where experts are large. The read benchmark ran alone; in
  the runs, reads share the cores with compute and copy each expert into freshly mapped pages. The engine reads an
  expert in two or three parts on as many lanes, the simulator in one.
- The prompt: {prefills}.
  Reading and computing a prompt are slower than the decode's constants say.
- Both runs with routes were recorded with the engine's route log on, which adds a barrier per layer.
"""


def page(validation: Validation) -> str:
    """The report as Markdown."""
    training = validation.training
    constants = validation.constants
    routed = [compared for compared in validation.comparisons if compared.routed]
    same = " and ".join(
        f"{'all' if c.same_misses == len(c.tokens) else c.same_misses} {len(c.tokens)} tokens of {c.run.name}"
        for c in routed
    )
    drawn = "; ".join(
        f"{own.run.name} {_ms(own.predicted_s('wall_s'))} → {_ms(other.predicted_s('wall_s'))} ms"
        for own, other in zip(routed, validation.drawn, strict=True)
    )
    prefills = ", ".join(
        f"{c.run.name} {c.run.prefill_s:.2f} s measured, {c.simulation.prefill_s:.2f} s predicted"
        f" ({signed(c.simulation.prefill_s / c.run.prefill_s - 1)})"
        for c in routed
    )
    first, last = _quarters(training)
    related = training.tokens["compute_s"].corr(training.tokens["misses"].astype(float))
    return "\n".join(
        [
            _INTRODUCTION.format(training=training.name, calibrated=CALIBRATED),
            f"![Wall time per token, measured and predicted]({FIGURE}.png)\n",
            "## Constants\n",
            *_constants(validation),
            _MANAGEMENT,
            _UNDISTURBED.format(interrupted=INTERRUPTED),
            *_undisturbed(validation),
            _MISSES.format(same=same),
            _DRAWN.format(drawn=drawn),
            _ALL.format(share=_percent(constants.interruptions), related=related),
            *_all(validation.comparisons, training),
            _FAULTS,
            _TIME,
            *_times(validation.comparisons),
            _CLOCKS.format(rise=_percent(last / first - 1)),
            _STRUCTURES.format(bandwidth=_percent(validation.structures["bandwidth"][0].compute)),
            *_structures(validation.structures),
            _CANCEL,
            _UNFITTED.format(platform=PLATFORM),
            *_unfitted(validation, routed),
            _SIXTEEN,
            _LIMITS.format(prefills=prefills),
            f"To run one: `moesim run platform={CALIBRATED} {' '.join(training.overrides(str(training.trace)))}`",
            "",
        ]
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, the first column to the left, and a blank one."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _constants(validation: Validation) -> list[str]:
    c = validation.constants
    share = "share of its usual compute that interruptions add; no part of the preset"
    return _table(
        ["constant", "value", "fitted to"],
        [
            [
                "`compute_efficiency` of gemm and grouped_gemm",
                f"{c.compute:g}",
                "mean of `compute_s`, undisturbed tokens",
            ],
            ["`cache_lookup_s`", f"{c.cache_lookup_s * 1e6:.4g} us", "`management_s`, undisturbed tokens"],
            ["`cache_evict_s_per_byte`", f"{c.cache_evict_s_per_byte * 1e12:.4g} ps", "the same, least squares"],
            ["interruptions", _percent(c.interruptions), f"`compute_s`, all tokens: {share}"],
        ],
    )


def _undisturbed(validation: Validation) -> list[str]:
    rows = []
    for compared in validation.comparisons:
        run = compared.run
        parts = [f"{_ms(compared.measured_s(part))} → {_ms(compared.predicted_s(part))}" for part in PARTS]
        about = "fitted" if run is validation.training else "routes" if compared.routed else "mean hit rate"
        misses = f"{compared.tokens['misses'].mean():.1f}"
        rows.append(
            [run.name, f"{run.policy}, {run.cache_mib} MiB, top-{run.top_k}", about, misses]
            + [parts[0], f"**{signed(compared.error())}**", *parts[1:]]
        )
    heads = ["run", "cache", "known of it", "misses", "wall", "error", "compute", "stall", "management"]
    others = [compared for compared in validation.comparisons if compared.run is not validation.training]
    worst = [_percent(max(abs(compared.error(part)) for compared in others)) for part in PARTS]
    mean = [_percent(sum(abs(compared.error(part)) for compared in others) / len(others)) for part in PARTS]
    rows.append(["mean error of predictions", "", "", "", "", mean[0], *mean[1:]])
    rows.append(["largest", "", "", "", "", worst[0], *worst[1:]])
    return _table(heads, rows)


def _all(comparisons: Sequence[Comparison], training: RecordedRun) -> list[str]:
    rows = []
    for compared in comparisons:
        run = compared.run
        wall_s, predicted_s = compared.all_measured_s, compared.all_predicted_s
        count = int((~run.undisturbed).sum())
        faults = f"{run.tokens['major_faults'].mean():,.0f}"
        name = f"{run.name} (fitted)" if run is training else run.name
        rows.append(
            [name, f"{count} of {len(run.tokens)}", faults]
            + [_ms(wall_s), _ms(predicted_s), signed(predicted_s / wall_s - 1)]
        )
    return _table(["run", "interrupted", "major faults per token", "measured, ms", "predicted, ms", "error"], rows)


def _quarters(run: RecordedRun) -> tuple[float, float]:
    compute_s = run.tokens.loc[run.undisturbed, "compute_s"]
    number = len(run.tokens) // 4
    return float(compute_s[compute_s.index < number].median()), float(
        compute_s[compute_s.index >= len(run.tokens) - number].median()
    )


def _times(comparisons: Sequence[Comparison]) -> list[str]:
    rows = []
    for compared in comparisons:
        first, last = _quarters(compared.run)
        rows.append([compared.run.name, _ms(first), _ms(last), signed(last / first - 1)])
    return _table(["run", "first, ms", "last, ms", "change"], rows)


def _structures(structures: dict[str, tuple[Constants, list[Comparison]]]) -> list[str]:
    names = [compared.run.name for compared in structures[CHOSEN][1]]
    rows = []
    for structure in STRUCTURES:
        constants, comparisons = structures[structure]
        number = f"{constants.compute * 1e6:.1f} us" if structure == "operations" else _percent(constants.compute)
        errors = [signed(c.error(part)) for part in ("compute_s", "wall_s") for c in comparisons]
        rows.append([f"{structure}{' (chosen)' if structure == CHOSEN else ''}: {_SAYS[structure]}", number, *errors])
    heads = [f"{part}, {name}" for part in ("compute", "wall") for name in names]
    return _table(["what bounds compute", "fitted", *heads], rows)


def _unfitted(validation: Validation, routed: Sequence[Comparison]) -> list[str]:
    rows = []
    for compared in routed:
        measured_s = compared.measured_s("wall_s")
        predicted = [
            f"{_ms(value)} ({signed(value / measured_s - 1)})" for value in validation.uncalibrated[compared.run.name]
        ]
        rows.append([compared.run.name, _ms(measured_s), *predicted])
    return _table(
        ["run", "measured", "predicted, weights as stored", "predicted, others than experts in 16 bits"], rows
    )


def _ms(value_s: float) -> str:
    return f"{value_s * 1e3:.1f}"


def signed(share: float) -> str:
    """A share above or below as text."""
    return f"{100 * share:+.1f} %".replace("-", "\N{MINUS SIGN}")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
