"""The text of a step, such as ``crop 128 start=16``, and the transform it names."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import shlex
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from traces.transforms._stream import Stream, TransformError


@dataclass(frozen=True)
class Step:
    """A transform with its arguments, all parameters filled in."""

    name: str
    function: Callable[..., Stream]
    arguments: dict[str, Any]
    mapping: dict[str, str]

    def apply(self, stream: Stream) -> Stream:
        """Return the stream after this step."""
        return self.function(stream, **self.arguments, **self.mapping)

    def __str__(self) -> str:
        given = {name: value for name, value in self.arguments.items() if value not in (None, ())}
        return " ".join([self.name, *(f"{name}={_shown(value)}" for name, value in (given | self.mapping).items())])


def list_transforms() -> list[ModuleType]:
    """Return all transform modules, by name."""
    import traces.transforms

    names = sorted(info.name for info in pkgutil.iter_modules(traces.transforms.__path__))
    return [importlib.import_module(f"traces.transforms.{name}") for name in names if not name.startswith("_")]


def parse_step(text: str) -> Step:
    """Return the step that `text` describes; raises TransformError with what is wrong and what there is."""
    try:
        words = shlex.split(text)
    except ValueError:
        raise TransformError(f"step '{text}': the quotes must be closed.") from None
    known = {module.__name__.rpartition(".")[2]: module for module in list_transforms()}
    if not words or words[0] not in known:
        name = words[0] if words else ""
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known)}."
        raise TransformError(f"step '{text}': there is no transform '{name}'; {hint}")
    function = known[words[0]].apply
    arguments, mapping = _arguments(text, function, words[1:])
    return Step(words[0], function, arguments, mapping)


def usage(module: ModuleType) -> str:
    """Return how a step with this transform is written, such as ``crop [tokens] [start=0] [phase]``."""
    parts = [module.__name__.rpartition(".")[2]]
    for parameter in _parameters(module.apply):
        if parameter.kind is parameter.VAR_KEYWORD:
            parts.append("[old=new …]")
        elif parameter.default is parameter.empty:
            parts.append(parameter.name)
        elif parameter.default in (None, ()):
            parts.append(f"[{parameter.name}]")
        else:
            parts.append(f"[{parameter.name}={_shown(parameter.default)}]")
    return " ".join(parts)


def _parameters(function: Callable[..., Stream]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())[1:]


def _arguments(text: str, function: Callable[..., Stream], words: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    parameters = _parameters(function)
    named = {parameter.name: parameter for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    open_names = len(named) < len(parameters)
    hints = typing.get_type_hints(function)
    how = f"expected '{usage(inspect.getmodule(function))}'"  # type: ignore[arg-type]
    given: dict[str, str] = {}
    mapping: dict[str, str] = {}
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if not equals:
            if number >= len(named) or mapping or any("=" in before for before in words[:number]):
                raise TransformError(f"step '{text}': '{word}' is too much; {how}.")
            name, value = list(named)[number], word
        target = given if name in named else mapping
        if name in target or (name not in named and not open_names):
            what = "is given twice" if name in target else "is not known"
            raise TransformError(f"step '{text}': '{name}' {what}; {how}.")
        target[name] = value
    arguments: dict[str, Any] = {}
    for name, parameter in named.items():
        if name in given:
            arguments[name] = _value(given[name], hints[name], f"step '{text}': {name}")
        elif parameter.default is parameter.empty:
            raise TransformError(f"step '{text}': '{name}' is missing; {how}.")
        else:
            arguments[name] = parameter.default
    return arguments, mapping


def _value(text: str, kind: Any, where: str) -> Any:
    """Read `text` as a parameter's annotation says."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    if typing.get_origin(kind) is tuple:
        return tuple(_value(item, typing.get_args(kind)[0], where) for item in text.split(","))
    if kind is str:
        return text
    if kind is bool:
        if text in ("yes", "no"):
            return text == "yes"
        raise TransformError(f"{where} must be yes or no, not '{text}'.")
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise TransformError(f"{where} must be {'an integer' if kind is int else 'a number'}, not '{text}'.")
    return value


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return shlex.quote(text)
