"""How often accelerators read experts' weights, for `metric: {python: ...}`: of runs, or of a trace alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from experiments.compose import compose_config
from experiments.run import plain, scenario_from_config
from experiments.validation.published.runs import Run
from simulator.visits import visits


def frame_s(runs: Mapping[str, Run]) -> float:
    """Seconds of an image, all of whose patches are one prefill; of the one run."""
    (run,) = runs.values()
    return float(run.summary["ttft_mean_s"])


def frame_j(runs: Mapping[str, Run], images: int) -> float:
    """Energy of an image by power, in joules; of the one run, of so many images."""
    (run,) = runs.values()
    return float(run.summary["energy_by_power_j"]) / images


def power_w(runs: Mapping[str, Run]) -> float:
    """Mean power of the one run, in watts, by power."""
    (run,) = runs.values()
    return float(run.summary["energy_by_power_j"]) / float(run.summary["duration_s"])


def found_share(runs: Mapping[str, Run]) -> float:
    """Share of the experts asked for in decode that were here or on their way, of the one run."""
    (run,) = runs.values()
    return float(run.summary["hit_rate_decode"]) + float(run.summary["late_rate"])


def with_the_rest(runs: Mapping[str, Run], of: str, over: str, rest_s: float) -> float:
    """Speed-up of a design by its loop order, where all takes `rest_s` with the better one: (rest + of - over) / rest.

    For a design whose other stages are slower than those that ran: only the difference of the two orders is ours.
    """
    more_s = frame_s({of: runs[of]}) - frame_s({over: runs[over]})
    return (rest_s + more_s) / rest_s


def _reads(overrides: Sequence[str], window: int | None, queue: int | None = None, requests: int = 8) -> Iterator[int]:
    """Times that weights of an expert are read, for each image and layer."""
    scenario = scenario_from_config(plain(compose_config([*overrides, "reference=false"])))
    for index in range(requests):
        experts = scenario.trace.request(index).experts  # [tokens, layers, k]
        for layer in range(experts.shape[1]):
            yield sum(map(len, visits(experts[:, layer], scenario.model.experts, window, queue).values()))


def most_reads(overrides: Sequence[str], window: int | None) -> float:
    """The most of any image and layer."""
    return float(max(_reads(overrides, window)))


def reads_over_uniform(overrides: Sequence[str], tokens: int) -> float:
    """Weights read token by token over those read expert by expert, relative to uniform routing in closed form.

    T k / (E (1 - (1 - k / E)^T)): all choices over the expected number of experts that any of T tokens chose.
    """
    model = scenario_from_config(plain(compose_config([*overrides, "reference=false"]))).model
    chosen = model.experts * (1 - (1 - model.top_k / model.experts) ** tokens)
    return sum(_reads(overrides, 1)) / sum(_reads(overrides, None)) / (tokens * model.top_k / chosen)


def falls_with_the_window(overrides: Sequence[str], windows: Sequence[int]) -> float:
    """1 if every wider window reads less than the one before, -1 if one reads more, else 0."""
    reads = [sum(_reads(overrides, window)) for window in windows]
    steps = [before - after for before, after in pairwise(reads)]
    return 1.0 if min(steps) > 0 else -1.0 if min(steps) < 0 else 0.0
