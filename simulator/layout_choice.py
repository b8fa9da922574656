"""The section `layout` of a run's configuration: what is given, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from simulator.layout import Layout
from simulator.model import ModelError


@dataclass(frozen=True)
class LayoutChoice:
    """How the model is spread over the platform's workers; all null: one group of requests on each, experts dealt.

    gpus: how many of the platform's workers are used, the first ones (None: all); tp: GPUs that share attention and
    dense blocks; attention_dp: groups of these, each with its own requests; moe_tp: GPUs that share an expert; moe_ep:
    parts into which experts are dealt; pp: stages of layers; mirrored: simulate one of several GPUs that do the same.
    """

    gpus: int | None = None
    tp: int | None = None
    attention_dp: int | None = None
    moe_tp: int | None = None
    moe_ep: int | None = None
    pp: int | None = None
    mirrored: bool = True

    def resolve(self, workers: int, experts: int) -> Layout | None:
        """The layout on a platform of so many workers, None if nothing is given.

        pp is 1 unless given, and each stage has gpus / pp GPUs: tp · attention_dp, and moe_tp · moe_ep. Of either pair
        the one that is given fixes the other. Without tp and attention_dp, tp is 1. Without moe_tp and moe_ep, experts
        are cut tp ways if tp is given and there is one attention group, else dealt to all. Raises ModelError for what
        does not multiply up.
        """
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "mirrored"}
        if all(value is None for value in numbers.values()):
            return None
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise ModelError(f"layout.{name} is {value}; expected at least 1, or null.")
        gpus, pp = self.gpus or workers, self.pp or 1
        if gpus > workers:
            raise ModelError(f"layout.gpus is {gpus}; the platform has {workers} workers.")
        if gpus % pp:
            raise ModelError(f"layout.pp is {pp}; expected a divisor of the {gpus} GPUs.")
        stage = gpus // pp
        given = self.tp if self.tp is not None or self.attention_dp is not None else 1
        tp, groups = _pair("tp", given, "attention_dp", self.attention_dp, stage)
        cut, dealt = self.moe_tp, self.moe_ep
        if cut is None and dealt is None:
            cut = tp if self.tp is not None and groups == 1 else 1
        moe_tp, moe_ep = _pair("moe_tp", cut, "moe_ep", dealt, stage)
        if experts % moe_ep:
            raise ModelError(
                f"layout.moe_ep is {moe_ep}; expected a divisor of the {experts} distinct experts of a layer."
            )
        return Layout(tp, groups, moe_tp, moe_ep, pp)


def _pair(first: str, a: int | None, second: str, b: int | None, gpus: int) -> tuple[int, int]:
    """Two factors of `gpus`, of which one or both are given."""
    for name, value in ((first, a), (second, b)):
        if value is not None and gpus % value:
            raise ModelError(f"layout.{name} is {value}; expected a divisor of the {gpus} GPUs of a stage.")
    a = a if a is not None else gpus // (b or 1)
    b = b if b is not None else gpus // a
    if a * b != gpus:
        raise ModelError(f"layout.{first} * layout.{second} is {a} * {b}; expected the {gpus} GPUs of a stage.")
    return a, b
