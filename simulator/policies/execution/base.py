"""Role `execution`: where each expert of a layer runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from simulator.layer_work import LayerWork
from simulator.policies.base import Policy


class Split(NamedTuple):
    """What becomes of a layer's experts. Resident ones that are not named run on the worker.

    fetch     copied here, in this order, and run on the worker as they land; every missing expert that is
              not run on the CPU has to be among them. Others of the layer may be named too, also those that
              are here or coming already: the layer then waits for them, though they run for no token
    cpu       run on the host CPU where their home copy lies, in this order; missing or resident
    deferred  of `cpu`: those whose results may come one routed layer later (the last layer waits for all)
    units     by unit of the platform (`work.units`): run there, in this order. A unit over the worker's own memory
              takes resident experts only, one over the experts' home any
    """

    fetch: Sequence[int]
    cpu: Sequence[int] = ()
    deferred: Sequence[int] = ()
    units: Mapping[str, Sequence[int]] = MappingProxyType({})


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
