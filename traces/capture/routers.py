"""Where a model routes: its routed layers, and how the router of each family says what it chose.

Nearly all of transformers 5.23 hands the choice to a module called ``…Experts`` as (hidden [N, H], ids [N, k],
weights [N, k]), with the router beside it as ``gate`` or ``router``. The exceptions are classes here.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

from traces.capture import CaptureError

REFUSED = {
    "nllb-moe": "its experts module in transformers takes the router's 0/1 mask for expert ids, so that only experts 0"
    " and 1 ever run"
}


@dataclass(eq=False)
class RoutedLayer:
    """A layer whose `experts` module is called with the choice.

    `scores` is what the router makes of its logits ("softmax" or "sigmoid"); `unsorted` tells that it does not order
    its slots. `stack` is "encoder" or "decoder" in models that have both, else "".
    """

    name: str
    parent: Any
    index: int
    stack: str
    num_experts: int
    expert_bytes: int
    router: Any
    experts: Any
    scores: str
    unsorted: bool

    def passed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """(ids [N, k], weights [N, k]) from the arguments of the experts module."""
        values = [*args, *kwargs.values()]
        return self._ids(values[1]), values[2]

    def chosen(self, output: Any) -> tuple[Any, Any]:
        """(ids [N, k], weights [N, k]) from the output of the router, in its order.

        Raises CaptureError if it gives logits alone and nothing beside it tells what follows from them.
        """
        if not isinstance(output, tuple):  # DBRX
            if not hasattr(self.parent, "route_tokens_to_experts"):
                raise CaptureError(f"{self.name}: its router gives logits only, so there can be no guesses.")
            weights, ids = self.parent.route_tokens_to_experts(output)
            return ids, weights
        ids = next(value for value in output if not value.is_floating_point())
        ids = self._ids(ids.flatten(0, -2) if ids.dim() == 3 else ids, one_hot=ids.dim() == 3)
        shape = (len(ids), ids.shape[-1])
        floats = [value.reshape(-1, value.shape[-1]) for value in output if value.is_floating_point()]
        return ids, [value for value in floats if value.shape == shape][-1]

    def logits(self, output: Any) -> Any:
        """[N, E] of the output of the router."""
        if not isinstance(output, tuple):
            return output.reshape(-1, output.shape[-1])
        floats = (value for value in output if value.is_floating_point() and value.dim() > 1)
        return next(value for value in floats if value.shape[-1] >= self.num_experts).flatten(0, -2)

    def _ids(self, ids: Any, one_hot: bool = False) -> Any:
        """[N, k], −1 where no expert was run (a dropped token, or one of the model's zero experts)."""
        if ids.dim() == 3:  # one-hot [N, 1, E], as in Switch
            ids, one_hot = ids[:, 0], True
        if one_hot:
            ids = ids.argmax(-1).masked_fill(ids.sum(-1) == 0, -1).unsqueeze(-1)
        return ids.masked_fill(ids >= self.num_experts, -1)


class ScoredExperts(RoutedLayer):
    """Llama 4: no ids, all experts are called; those with a score above 0 count."""

    def chosen(self, output: Any) -> tuple[Any, Any]:
        weights, ids = output[0].topk(self.router.top_k, dim=-1)
        return ids.masked_fill(weights <= 0, -1), weights

    def logits(self, output: Any) -> Any:
        return output[1]


class GroupedTokens(RoutedLayer):
    """JetMoE: tokens grouped by expert; in attention and feed-forward."""

    def chosen(self, output: Any) -> tuple[Any, Any]:
        import torch

        order, _, gates, counts, logits = output
        ids, weights = torch.empty_like(order), torch.empty_like(gates)
        owners = torch.arange(self.num_experts, device=order.device)
        ids[order] = owners.repeat_interleave(torch.tensor(counts, device=order.device))
        weights[order] = gates
        return ids.view(len(logits), -1), weights.view(len(logits), -1)

    def logits(self, output: Any) -> Any:
        return output[-1]


def find_routed_layers(model: Any) -> list[RoutedLayer]:
    """The routed layers of a model in the order of its modules.

    Raises CaptureError if there is none, or the family is known not to run rightly in transformers.
    """
    family = model.config.model_type
    if family in REFUSED:
        raise CaptureError(f"{family} cannot be captured: {REFUSED[family]}.")
    modules = dict(model.named_modules())
    layers = [layer for name in modules if (layer := _layer(name, modules)) is not None]
    if not layers:
        raise CaptureError(
            f"{type(model).__name__}: no routed layer was found; expected a Mixture-of-Experts model whose experts"
            " module is called with (hidden, ids, weights)."
        )
    return layers


def _layer(name: str, modules: dict[str, Any]) -> RoutedLayer | None:
    """The layer whose choice is seen at the module `name`: its experts, or its router in the exceptions."""
    module = modules[name]
    parent: Any = modules.get(name.rpartition(".")[0])
    kind = type(module).__name__
    if kind == "Llama4Router":
        return _described(ScoredExperts, name, parent, module, None, [parent.experts])
    if kind == "JetMoeTopKGating":
        return _described(GroupedTokens, name, parent, module, None, [parent.input_linear, parent.output_linear])
    if not kind.endswith("Experts") or len(inspect.signature(module.forward).parameters) < 3:
        return None
    router = next((getattr(parent, key) for key in ("gate", "router") if hasattr(parent, key)), None)
    return _described(RoutedLayer, name, parent, router, module, [module])


def _described(
    kind: type[RoutedLayer], name: str, parent: Any, router: Any, experts: Any, holders: list[Any]
) -> RoutedLayer:
    weights = [weight for holder in holders for weight in holder.parameters()]
    count = getattr(router if experts is None else experts, "num_experts", None) or len(weights[0])
    numbers = re.findall(r"(?<=\.)\d+(?=\.)", name)
    source = inspect.getsource(type(router)) if router is not None else ""
    return kind(
        name=name,
        parent=parent,
        index=int(numbers[0]) if numbers else 0,
        stack=next((part for part in name.split(".") if part in ("encoder", "decoder")), ""),
        num_experts=count,
        expert_bytes=sum(weight.numel() * weight.element_size() for weight in weights) // count,
        router=router,
        experts=experts,
        scores="sigmoid" if "sigmoid" in source else "softmax",
        unsorted="sorted=False" in source,
    )
