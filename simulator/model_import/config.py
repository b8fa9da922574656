"""Reading a Hugging Face config.json: fields by name, with one clear sentence for what is missing or odd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from simulator.model import ModelError
from simulator.model_rules import MOST_LAYERS


@dataclass
class HfConfig:
    """The fields of a config.json (or of the part of it that describes the language model).

    where    the file, for messages
    remarks  what the model will lack, in words; families add to it
    """

    fields: Mapping[str, Any]
    where: str
    remarks: list[str] = field(default_factory=list)

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.fields.get(key) is not None

    def whole(self, *keys: str, default: int | None = None, least: int = 0) -> int:
        """A whole number of at least `least`: the first of `keys` that is given. One per layer, all the same, will do.

        Raises ModelError if it is something else, or missing without a default.
        """
        key = next((key for key in keys if self.has(key)), None)
        if key is None:
            if default is None:
                others = f" (or {', '.join(map(repr, keys[1:]))})" if keys[1:] else ""
                raise ModelError(f"{self.where}: field '{keys[0]}'{others} is missing.")
            return default
        value = self.fields[key]
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]
        if isinstance(value, list):
            raise ModelError(f"{self.where}: field '{key}' differs between layers, which is not modelled.")
        if isinstance(value, bool) or not isinstance(value, int):
            raise ModelError(f"{self.where}: field '{key}' must be a whole number, got {value!r}.")
        if value < least:
            raise ModelError(f"{self.where}: field '{key}' must be at least {least}, got {value}.")
        if value >= 2**62:
            raise ModelError(f"{self.where}: field '{key}' must be below 2^62, got {value}.")
        return value

    def layers(self, *keys: str) -> int:
        """A number of layers: at most MOST_LAYERS. Raises ModelError as `whole` does."""
        count = self.whole(*keys, least=1)
        if count > MOST_LAYERS:
            raise ModelError(f"{self.where}: field '{keys[0]}' must be at most {MOST_LAYERS}, got {count}.")
        return count

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false. Raises ModelError for anything else."""
        value = self.fields.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ModelError(f"{self.where}: field '{key}' must be true or false, got {value!r}.")
        return value

    def entries(self, key: str) -> list[Any]:
        """A list; empty if there is none. Raises ModelError for anything else."""
        value = self.fields.get(key)
        if not isinstance(value, list | None):
            raise ModelError(f"{self.where}: field '{key}' must be a list, got {value!r}.")
        return value or []

    def per_layer(self, key: str, layers: int) -> list[Any] | None:
        """A list with one entry a layer, or None if there is none. Raises ModelError for another length."""
        value = self.fields.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != layers:
            count = f"{len(value)} entries" if isinstance(value, list) else repr(value)
            raise ModelError(
                f"{self.where}: field '{key}' must have one entry for each of {layers} layers, got {count}."
            )
        return value

    def of_layer(self, layer: int) -> HfConfig:
        """The fields as per_layer_config changes them for one layer."""
        changes = self.fields.get("per_layer_config")
        own = changes.get(str(layer)) if isinstance(changes, Mapping) else None
        return HfConfig({**self.fields, **(own if isinstance(own, Mapping) else {})}, self.where, self.remarks)

    def part(self, key: str) -> HfConfig:
        """A mapping within this one. Raises ModelError if it is missing."""
        value = self.fields.get(key)
        if not isinstance(value, Mapping):
            raise ModelError(f"{self.where}: field '{key}' must be a mapping of fields, got {value!r}.")
        return HfConfig(value, f"{self.where} ({key})", self.remarks)


def shortest_period(names: Sequence[str]) -> list[str]:
    """The fewest first entries that, repeated, give all."""
    for length in range(1, len(names)):
        if all(name == names[i % length] for i, name in enumerate(names)):
            return list(names[:length])
    return list(names)


def regular(config: HfConfig, has_experts: Sequence[bool]) -> dict[str, int]:
    """first_dense_layers and moe_every of a model whose layers have experts or not.

    Raises ModelError if it is not every so many-th layer after the first dense ones.
    """
    count, wanted = len(has_experts), [i for i, moe in enumerate(has_experts) if moe]
    for every in range(1, wanted[0] + 2) if wanted else ():
        if wanted == list(range(wanted[0], count, every)):
            first = wanted[0] + 1 - every
            return {**({"first_dense_layers": first} if first else {}), **({"moe_every": every} if every > 1 else {})}
    shown = ", ".join(map(str, wanted[:6])) + (", ..." if len(wanted) > 6 else "")
    raise ModelError(
        f"{config.where}: layers {shown or 'none'} of {count} have experts; expected every so many-th"
        " layer after the first dense ones."
    )
