"""Hydra's and OmegaConf's errors as one sentence which names the key, the value and the mend."""

from __future__ import annotations

import difflib
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

OURS = ("traces", "hwmodels", "simulator", "experiments")

_WORDS = {
    "Integer": "a whole number",
    "Float": "a number",
    "Boolean": "true or false",
    "bool": "true or false",
    "String": "text",
}


MOST_NAMED = 40  # choices that a message lists


class ConfigError(ValueError):
    """A configuration or command that cannot be; the message is one sentence."""


def one_sentence(error: BaseException | str) -> str:
    """The first line of a message, with a full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0].strip().rstrip('.:')}."


def said_by(error: BaseException) -> str:
    """What an error says, on one line that UTF-8 can hold; empty if nothing, or if asking it fails."""
    try:
        text = str(error)
    except Exception:  # of somebody's own
        return ""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def in_own_policy(error: BaseException) -> str | None:
    """For what was raised in or below a policy of somebody's own, "file.py:16 in choose: what it says."; else None.

    The line is the innermost one of the policy's file, the name that of the hook that the simulator called. What is
    neither a ValueError nor a MemoryError is named: "KeyError: 'width'".
    """
    base = sys.modules.get("simulator.policies.base")
    if base is None:  # nothing has been run
        return None
    kinds = [base.Policy]
    for kind in kinds:  # grows
        kinds += kind.__subclasses__()
    own = {kind.__module__ for kind in kinds if kind.__module__.partition(".")[0] not in OURS}
    frames = traceback.walk_tb(error.__traceback__)
    places = [(frame, line) for frame, line in frames if frame.f_globals.get("__name__") in own]
    if not places:
        return None
    hook, (frame, line) = places[0][0].f_code.co_name, places[-1]
    text = said_by(error)
    if not text or not isinstance(error, ValueError | MemoryError):
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return f"{Path(frame.f_code.co_filename).name}:{line} in {hook}: {text.rstrip('.')}."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?", or the few there are to choose from, or an empty string."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not near:
        last = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
        found = difflib.get_close_matches(name.rsplit(".", 1)[-1], last, n=1, cutoff=0.7)
        near = [last[key] for key in found]
    if near:
        return f"; did you mean '{near[0]}'?"
    return f" (there are: {', '.join(known)})." if 0 < len(known) <= MOST_NAMED else "."


def explain(
    error: Exception,
    overrides: Sequence[str],
    keys: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    sources: Mapping[str, str],
) -> str:
    """One sentence for what composing `overrides` raised.

    keys: every known key; groups: group -> choices; sources: name given to a file of one's own -> its path.
    """
    message = str(error)
    for name, path in sources.items():
        message = message.replace(name, path)
    cause = error.__cause__ if error.__cause__ is not None else error
    detail = str(cause)
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'", message):
        group, name = match.groups()
        return f"{group}={name}: there is no such choice{did_you_mean(name, groups.get(group, ()))}"
    if match := re.search(r"Could not find '([^']+)'", message):
        return f"there is no group or file '{match.group(1)}'{did_you_mean(match.group(1), groups)}"
    given = getattr(error, "override", None)
    if type(error).__name__ == "OverrideParseException" and given is not None:
        return (
            f"cannot read '{given}'; expected key=value, with the value in quotes if it has blanks or odd characters."
        )
    if match := re.search(r"Ambiguous value for argument '(.*?)'\n", message):
        return f"'{match.group(1)}' gives several values; `moesim sweep`, or -m, runs each of them."
    if match := re.search(r"Key '([^']+)' (?:not in|is not in)", detail):
        full = re.search(r"full_key: (\S+)", detail)
        return _unknown(full.group(1) if full else match.group(1), overrides, keys, groups)
    if match := re.search(r"Could not (?:override|delete from config|append to config)\.? ?'?([^'\s]+)'?", message):
        return _unknown(match.group(1).rstrip("."), overrides, keys, groups)
    if match := re.search(r"Value '(.*?)' (?:of type '.*?' could not be converted to|is not a valid) (\w+)", detail):
        value, kind = match.groups()
        at = re.search(r"full_key: (\S+)", detail)
        where = f"{at.group(1)}={value}" if at else _named(message, overrides) or f"'{value}'"
        return f"{where}: expected {_WORDS.get(kind, kind)}."
    if "Invalid type assigned" in detail or "Cannot assign" in detail:
        named = _named(message, overrides) or one_sentence(detail)
        return f"{named}: this key holds other keys; set one of those, or choose one of its files if it is a group."
    if "is not Optional" in detail:
        return f"{_named(message, overrides) or one_sentence(detail)}: this key must have a value."
    if match := re.search(r"Missing mandatory value: (\S+)", detail):
        full = re.search(r"full_key: (\S+)", detail)
        return f"{full.group(1) if full else match.group(1)}: this key has no value; give it one."
    if "Config group override must be" in detail:
        pairs = [item.lstrip("+").partition("=") for item in overrides]
        odd = re.compile(r"null|[\d.]+")  # no names
        group, _, value = next((pair for pair in pairs if pair[0] in groups and odd.fullmatch(pair[2])), pairs[0])
        near = did_you_mean("" if value == "null" else value, groups.get(group, ()))
        return f"{group}={value}: expected the name or path of a choice{near}"
    full = re.search(r"full_key: (\S+)", detail)
    named = _named(message, overrides) or (full.group(1) if full else " ".join(overrides))
    return f"{named}: {one_sentence(detail)}"


def _named(message: str, overrides: Sequence[str]) -> str | None:
    """The override that a message quotes."""
    match = re.search(r"Error merging override (\S+)", message)
    if match:
        return match.group(1).lstrip("+")
    return next((item for item in overrides if item in message), None)


def _unknown(key: str, overrides: Sequence[str], keys: Sequence[str], groups: Mapping[str, Sequence[str]]) -> str:
    hint = did_you_mean(key, [*groups, *keys])
    whole = next((item for item in overrides if item.lstrip("+~").partition("=")[0] == key), None)
    place = f" in '{whole}'" if whole else ""
    return f"unknown key '{key}'{place}{hint}"
