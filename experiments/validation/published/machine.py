"""What overrides describe: the scenario, and what one GPU of its layout holds; for `metric: {python: ...}`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from experiments.compose import compose_config
from experiments.run import plain, scenario_from_config
from simulator.runtime.ranks import Ranks
from simulator.runtime.shares import Shares
from simulator.scenario import Scenario


def scenario_of(overrides: Sequence[Any]) -> Scenario:
    """The scenario of overrides, without a clairvoyant reference. Lists inside lists, as YAML anchors make,
    are opened.
    """
    return scenario_from_config(plain(compose_config([*_flat(overrides), "reference=false"])))


def one_gpu(scenario: Scenario) -> tuple[Ranks, Shares]:
    """The GPUs of a scenario, and what one of them holds of one instance of the model."""
    ranks = Ranks.of(scenario.layout, scenario.platform, scenario.model.experts)
    return ranks, Shares(scenario.model, ranks)


def _flat(overrides: Sequence[Any]) -> Iterator[str]:
    for item in overrides:
        if isinstance(item, str):
            yield item
        else:
            yield from _flat(item)
