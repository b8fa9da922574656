"""Role `execution`: where each expert of a layer runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from simulator.layer_work import LayerWork
from simulator.policies.base import Policy
from simulator.residency import PolicyError


class Split(NamedTuple):
    """What becomes of a layer's experts. Resident ones that are not named run on the worker.

    fetch     copied here, in this order, and run on the worker as they land; every missing expert that is
              not run on the CPU has to be among them. Others of the layer may be named too, also those that
              are here or coming already: the layer then waits for them, though they run for no token
    cpu       run on the host CPU where their home copy lies, in this order; missing or resident
    deferred  of `cpu`: those whose results may come one routed layer later (the last layer waits for all)
    units     by unit of the platform (`work.units`): run there, in this order. A unit over the worker's own memory
              takes resident experts only, one over the experts' home any. Under "divided" each expert is divided
              over all units, if they are of one memory
    shares    expert -> its share on each unit, in the order of the platform's file, of those divided; even if left out
    """

    fetch: Sequence[int]
    cpu: Sequence[int] = ()
    deferred: Sequence[int] = ()
    units: Mapping[str, Sequence[int]] = MappingProxyType({})
    shares: Mapping[int, Sequence[float]] = MappingProxyType({})


class ExecutionPolicy(Policy):
    """Called in every layer with experts that are missing, or in every layer if `always`.

    split(work)     see `Split`
    ahead(work)     only if `precomputes`: experts among `work.expected` to start on the host CPU now, with
                    one token each; one that its layer then asks for is only waited for
    uses_cpu        whether `split` may name any for the CPU
    uses_units      whether it may name any for units near memory
    """

    uses_cpu = False
    uses_units = False
    always = False
    precomputes = False
    hooks = (("ahead", "precomputes"),)

    def split(self, work: LayerWork) -> Split:
        raise NotImplementedError

    def ahead(self, work: LayerWork) -> Sequence[int]:
        raise NotImplementedError


def check_split(
    policy: ExecutionPolicy, split: Split, misses: Collection[int], tokens: Collection[int], layer: int
) -> None:
    """Raises PolicyError unless the split of a layer, that misses some of the experts with `tokens`, can be done."""
    name = f"policy/execution {type(policy).__name__}"
    if not isinstance(split, Split):
        raise PolicyError(f"{name}: split returned a {type(split).__name__}; expected `Split`.")
    near = [blob for some in split.units.values() for blob in some]
    beside = (*split.cpu, *near)
    named = (*split.fetch, *beside)
    if len(set(named)) < len(named) or not set(misses) <= set(named) or not set(beside) <= set(tokens):
        raise PolicyError(
            f"{name} fetches {list(split.fetch)} and runs {list(beside)} on the CPU or a unit in layer {layer};"
            f" expected every missing expert of {list(misses)} once, and for the CPU and units only experts that are"
            " asked for."
        )
    if near and not policy.uses_units:
        raise PolicyError(f"{name} names units without `uses_units`.")
    if split.cpu and not policy.uses_cpu:
        raise PolicyError(f"{name} names the CPU without `uses_cpu`.")
