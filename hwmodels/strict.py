"""Reading a mapping into a dataclass: nothing unknown, nothing missing, no wrong type.

OmegaConf's structured configs do the checking; this module only turns what they say into one sentence.
"""

import copy
import dataclasses
import difflib
import json
import math
import re
from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from hwmodels.errors import PlatformError
from hwmodels.units import convert_quantities

T = TypeVar("T")
_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "a mapping of fields",
}


def strict(cls: type[T], mapping: Any, where: str, error_class: type[ValueError], field: str = "") -> T:
    """An instance of the dataclass `cls` with the values of `mapping` (a dict or an OmegaConf config).

    Text quantities become SI numbers by the unit in their key (hwmodels.units). `where` names the file in
    messages and `field` the place of `mapping` in it, if that is not the top. Raises `error_class`, one
    sentence, for unknown keys, missing or wrongly typed values, and numbers which are NaN or infinite.

    OmegaConf makes nested frozen dataclasses read-only while it fills them: annotate such fields as
    `dict[str, Any]` and call `strict` on the parts.
    """
    if isinstance(mapping, DictConfig):
        try:
            mapping = OmegaConf.to_container(mapping, resolve=True)
        except OmegaConfBaseException as error:
            raise error_class(f"{where}: {_first_line(error)}.") from None
    if not isinstance(mapping, Mapping):
        place = f"field '{field}': " if field else ""
        raise error_class(f"{where}: {place}expected a mapping of fields, got {_show(mapping)}.")
    _reject_odd_values(mapping, where, field, error_class)
    for path, hint, value in _misshapen(cls, mapping):
        at = f"{field}.{path}".lstrip(".")
        raise error_class(f"{where}: field '{at}' must be {_word(hint)}, got {_show(value)}.")
    try:
        return cast(T, copy.deepcopy(_filled(cast(Hashable, cls), json.dumps(convert_quantities(mapping, field)))))
    except PlatformError as error:
        raise error_class(f"{where}: {error}") from None
    except OmegaConfBaseException as error:
        raise error_class(f"{where}: {_sentence(error, cls, mapping, field)}") from None


@lru_cache(maxsize=1024)
def _filled(cls: Any, fields: str) -> Any:
    """An instance of `cls` from fields in JSON; OmegaConf takes 10 ms for it, and equal parts are many."""
    schema = OmegaConf.structured(cls, flags={"readonly": False})
    return OmegaConf.to_object(OmegaConf.merge(schema, json.loads(fields)))


def _misshapen(cls: type, mapping: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Lists and mappings where another shape belongs; OmegaConf lets some pass. (field, type, value)"""
    for key, hint in get_type_hints(cls).items():
        if key not in mapping or hint is Any:
            continue
        value, container = mapping[key], get_origin(hint)
        if container is list and isinstance(value, list | tuple):
            items = [(f"{key}[{index}]", item) for index, item in enumerate(value)]
        elif container is dict and isinstance(value, Mapping):
            items = [(f"{key}.{name}", item) for name, item in value.items()]
        elif container in (list, dict) or isinstance(value, list | tuple | Mapping):
            yield key, hint, value
            continue
        else:
            continue
        inner = get_args(hint)[-1]
        for path, item in items:
            if inner is not Any and (item is None or isinstance(item, list | tuple | Mapping)):
                yield path, inner, item


def _reject_odd_values(node: Any, where: str, field: str, error_class: type[ValueError]) -> None:
    """What OmegaConf would let through or trip over: non-text keys, NaN, infinities, interpolations."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if not isinstance(key, str):
                raise error_class(f"{where}: field {_show(field or key)} has a key that is not text: {key!r}.")
            _reject_odd_values(value, where, f"{field}.{key}".lstrip("."), error_class)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            _reject_odd_values(value, where, f"{field}[{index}]", error_class)
    elif isinstance(node, float) and not math.isfinite(node):
        raise error_class(f"{where}: field '{field}' must be a finite number, got {node}.")
    elif isinstance(node, str) and ("${" in node or node.strip().lower().lstrip("+-") in ("nan", "inf")):
        raise error_class(f"{where}: field '{field}' must be a plain value, got {_show(node)}.")
    elif not isinstance(node, str | int | float | bool | None):
        raise error_class(f"{where}: field '{field}' must be text, a number or true/false, got {_show(node)}.")


def _sentence(error: OmegaConfBaseException, cls: type, mapping: Mapping[str, Any], prefix: str) -> str:
    path = re.findall(r"[^.\[\]]+", error.full_key or str(error.key or ""))
    field = f"{prefix}.{error.full_key or error.key or ''}".strip(".")
    if isinstance(error, ConfigKeyError):
        owner = error.object_type
        known = [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
        near = difflib.get_close_matches(str(error.key), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}."
        return f"unknown field '{field}'; {hint}"
    if isinstance(error, MissingMandatoryValue):
        return f"field '{f'{prefix}.{_missing(error)}'.strip('.')}' is missing."
    return f"field '{field}' must be {_expected(cls, path)}, got {_show(_value(mapping, path))}."


def _expected(hint: Any, path: list[str]) -> str:
    """What the field at `path` below a dataclass or container type should hold, in words."""
    for part in path:
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            hint = get_type_hints(hint).get(part, Any)
        else:
            hint = (get_args(hint) or (Any,))[-1]
    return _word(hint)


def _word(hint: Any) -> str:
    options = [option for option in get_args(hint) if option is not type(None)]
    if get_origin(hint) in (Union, UnionType) and options:
        hint = options[0]
    return _WORDS.get(get_origin(hint) or hint, "a mapping of fields")


def _value(node: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(node, list | tuple):
            node = node[int(part)]
        elif isinstance(node, Mapping):
            node = node.get(part)
    return node


def _missing(error: MissingMandatoryValue) -> str:
    name = _first_line(error).rsplit(": ", 1)[-1]
    parent = error.full_key or ""
    return parent if parent.split(".")[-1] == name else f"{parent}.{name}".lstrip(".")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
