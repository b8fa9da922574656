"""Hooks that note what every routed layer chose while a model runs, and what earlier layers would have guessed."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from traces.capture import CaptureError
from traces.capture.routers import RoutedLayer

FIELDS = {
    "ids": np.int16,
    "weights": np.float32,
    "probabilities": np.float32,
    "guesses": np.int16,
    "norms": np.float32,
}


class Recorder:
    """Context manager: while it is open, each forward pass of the model adds to what each layer chose.

    `layers` are in the order in which they run. With `distances` D > 0, layer l's router input is also given to the
    routers of layers l + 1 … l + D; what they choose is layer l's guess. `norms` are those of the hidden states that
    the routers are given, summed in float32. `order` lists the layers in the order in which they were first called.
    """

    def __init__(
        self, layers: Sequence[RoutedLayer], *, probabilities: bool = False, distances: int = 0, norms: bool = False
    ) -> None:
        self._layers, self._probabilities, self._distances, self._norms = list(layers), probabilities, distances, norms
        self._hooks: list[Any] = []
        for layer in self._layers if probabilities or distances or norms else []:
            if layer.router is None:
                raise CaptureError(f"{layer.name}: no router was found beside it; capture without them the ids alone.")
        self.clear()

    def clear(self) -> None:
        """Forget what was noted."""
        self._noted: list[dict[str, list[Any]]] = [{name: [] for name in FIELDS} for _ in self._layers]
        self._inputs: list[Any] = [None] * len(self._layers)
        self.order: list[RoutedLayer] = []

    def __enter__(self) -> Recorder:
        for number, layer in enumerate(self._layers):
            if layer.experts is not None:
                self._hooks.append(layer.experts.register_forward_pre_hook(self._passed(number), with_kwargs=True))
            if layer.router is not None:
                self._hooks.append(layer.router.register_forward_hook(self._routed(number), with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _passed(self, number: int) -> Any:
        layer = self._layers[number]

        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._choice(number, *layer.passed(args, kwargs))

        return hook

    def _routed(self, number: int) -> Any:
        layer = self._layers[number]

        def hook(router: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            noted = self._noted
            if layer.experts is None:
                self._choice(number, *layer.chosen(output))
            if self._probabilities:
                logits = layer.logits(output).float()
                scores = logits.sigmoid() if layer.scores == "sigmoid" else logits.softmax(-1)
                noted[number]["probabilities"].append(scores[:, : layer.num_experts])
            if not (self._distances or self._norms):
                return
            named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            state, *rest = args or (kwargs["hidden_states"],)
            if self._norms:
                noted[number]["norms"].append(state.float().norm(dim=-1, keepdim=True))
            if not self._distances:
                return
            self._inputs[number] = state.clone()
            for distance in range(1, min(self._distances, number) + 1):
                source, earlier = self._layers[number - distance], self._inputs[number - distance]
                if source.stack != layer.stack or earlier is None or earlier.shape != state.shape:
                    continue
                ids, weights = layer.chosen(router.forward(earlier, *rest, **named))  # not the hooks
                guesses = noted[number - distance]["guesses"]
                if distance == 1:
                    guesses.append({})
                guesses[-1][distance] = _in_order(ids, weights, layer)[0]

        return hook

    def _choice(self, number: int, ids: Any, weights: Any) -> None:
        layer, noted = self._layers[number], self._noted[number]
        if not noted["ids"]:
            self.order.append(layer)
        ids, weights = _in_order(ids, weights, layer)
        noted["ids"].append(ids.clone())
        noted["weights"].append(weights.float().masked_fill(ids < 0, float("nan")))

    def arrays(self, batch: int) -> list[dict[str, np.ndarray]]:
        """For each layer what `batch` sequences chose, in the order of their tokens; arrays [batch, T, …].

        ids [k] −1 where nothing was run, weights [k], probabilities [E], guesses [D, k] −1 where there is none,
        norms [1].
        """
        return [self._joined(number, batch) for number in range(len(self._layers))]

    def _joined(self, number: int, batch: int) -> dict[str, np.ndarray]:
        noted, layer = self._noted[number], self._layers[number]
        if not noted["ids"]:
            raise CaptureError(f"{layer.name}: the layer never ran; its routing cannot be captured.")
        done = {"ids": _cat(noted["ids"], batch), "weights": _cat(noted["weights"], batch)}
        if self._probabilities:
            done["probabilities"] = _cat(noted["probabilities"], batch)
        if self._norms:
            done["norms"] = _cat(noted["norms"], batch)
        if self._distances:
            width = done["ids"].shape[-1]
            guesses = np.full((*done["ids"].shape[:2], self._distances, width), -1)
            for distance in range(1, self._distances + 1):
                parts = [call[distance] for call in noted["guesses"] if distance in call]
                if parts:
                    guessed = _cat(parts, batch)
                    guesses[:, :, distance - 1, : guessed.shape[-1]] = guessed
            done["guesses"] = guesses
        return {name: values.astype(FIELDS[name]) for name, values in done.items()}


def _in_order(ids: Any, weights: Any, layer: RoutedLayer) -> tuple[Any, Any]:
    """Slots by weight, the greatest first, where the router gives them in no order."""
    if not layer.unsorted:
        return ids, weights
    weights, order = weights.sort(dim=-1, descending=True, stable=True)
    return ids.gather(-1, order), weights


def _cat(calls: list[Any], batch: int) -> np.ndarray:
    """[batch, T, …] of calls that each hold some tokens of every sequence, [batch · tokens, …]."""
    import torch

    return torch.cat([call.reshape(batch, -1, call.shape[-1]) for call in calls], dim=1).cpu().numpy()
