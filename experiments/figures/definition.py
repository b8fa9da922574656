"""A figure of a paper as a YAML of ten lines: what to run, and what to draw of it."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.compose import is_path, read_yaml
from experiments.explain import ConfigError, did_you_mean, one_sentence
from experiments.figures.kinds import KINDS
from experiments.figures.style import COLUMN_IN, PAGE_IN, shown

GALLERY = Path(__file__).parent / "gallery"
WIDTHS_IN = {"column": COLUMN_IN, "page": PAGE_IN}
_SWEEP_NAME = re.compile(r"[\w .+()-]+")
_EXPECTED: dict[Any, str] = {  # of the keys of a definition, and of the types of a kind's keywords
    "runs": "a list of overrides",
    "sweeps": "names with a list of overrides each",
    "names": "a mapping of values to text",
    "draw": "a mapping of the kind's keywords to values",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
}


@dataclass
class Definition:
    """What a figure's file may say.

    description  what it shows, in one or two sentences
    kind         how it is drawn: a key of `experiments.figures.kinds.KINDS`
    width        column or page
    runs         overrides of every run, in the grammar of `moesim sweep`
    sweeps       name -> further overrides, one sweep for each; the names stand in column `name`
    names        value or column -> what the figure calls it
    draw         the kind's own keywords
    """

    description: str = MISSING
    kind: str = MISSING
    width: str = "column"
    runs: list[str] = field(default_factory=list)
    sweeps: dict[str, list[str]] = field(default_factory=dict)
    names: dict[Any, Any] = field(default_factory=dict)
    draw: dict[str, Any] = field(default_factory=dict)

    def overrides(self, extra: list[str]) -> list[list[str]]:
        """The overrides of each of its sweeps, `extra` last."""
        parts = [[f"name='{name}'", *more] for name, more in self.sweeps.items()] or [[]]
        return [[*self.runs, *part, *extra] for part in parts]


def figure_names() -> list[str]:
    """The shipped figures, in alphabetical order."""
    return sorted(path.stem for path in GALLERY.glob("*.yaml"))


def figure_file(name: str) -> Path:
    """The file of a shipped figure, or of one's own by path. Raises ConfigError if there is none."""
    if is_path(name):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ConfigError(f"{name}: there is no such file; expected the YAML of a figure.")
        return path
    if name not in figure_names():
        raise ConfigError(f"{name}: there is no figure of that name{did_you_mean(name, figure_names())}")
    return GALLERY / f"{name}.yaml"


def read_definition(path: Path) -> Definition:
    """A checked definition. Raises ConfigError naming the file and the key for whatever is wrong with it."""
    found: Any = OmegaConf.to_object(_merged(Definition, read_yaml(path), str(path)))
    assert isinstance(found, Definition)
    found.description = " ".join(found.description.split())
    found.names = {shown(key, 1000): str(text) for key, text in found.names.items()}
    for name in found.sweeps:
        if not _SWEEP_NAME.fullmatch(name):
            raise ConfigError(f"{path}: sweeps: '{name}' is no name; expected letters, digits, blanks and _.+-().")
    for key, known in (("kind", KINDS), ("width", WIDTHS_IN)):
        if getattr(found, key) not in known:
            text = str(getattr(found, key))
            raise ConfigError(f"{path}: {key} {text}: there is no such {key}{did_you_mean(text, known)}")
    found.draw = _keywords(KINDS[found.kind].prepare, found.draw, f"{path}: draw")
    return found


def _keywords(function: Callable[..., Any], given: dict[str, Any], place: str) -> dict[str, Any]:
    """`given`, checked against the keyword-only parameters of a kind, with their defaults."""
    hints = get_type_hints(function)
    fields: list[Any] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            default = MISSING if parameter.default is parameter.empty else parameter.default
            fields.append((parameter.name, hints[parameter.name], field(default=default)))
    structure = dataclasses.make_dataclass("Keywords", fields)
    content = OmegaConf.to_container(_merged(structure, OmegaConf.create(given), place))
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _merged(structure: type, node: DictConfig, place: str) -> DictConfig:
    """`node` checked against a dataclass. Raises ConfigError naming the place and the key."""
    hints = get_type_hints(structure)
    merged: Any = OmegaConf.structured(structure)
    try:
        given: Any = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{place}: {one_sentence(error)}") from None
    for key, value in given.items():
        if key not in hints:
            raise ConfigError(f"{place}: unknown key '{key}'{did_you_mean(str(key), hints)}")
        try:
            merged = OmegaConf.merge(merged, {key: value})
        except OmegaConfBaseException:
            raise ConfigError(f"{place}: {key}: expected {_expected(key, hints[key])}.") from None
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise ConfigError(f"{place}: {missing[0]}: this key has no value; give it one.")
    return merged


def _expected(key: str, hint: Any) -> str:
    """What a key of this type must hold, in words; `str | None` counts as str, `list[int]` as list."""
    options = [
        option for option in (get_args(hint) if isinstance(hint, UnionType) else [hint]) if option is not NoneType
    ]
    return _EXPECTED.get(key) or _EXPECTED.get(get_origin(options[0]) or options[0], "another value")
