"""The prompts of a capture: JSON lines of {"prompt": text, "task": optional label}."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from traces.capture import CaptureError


@dataclass(frozen=True)
class Prompt:
    """One request: its text and a label, such as the category of a question."""

    text: str
    task: str | None = None


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a JSON-lines file, in its order; empty lines are passed over.

    Raises CaptureError naming file and line where one is not {"prompt": text} or {"prompt": text, "task": text},
    or if there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise CaptureError(f"{path}: there is no such file of prompts.") from None
    except UnicodeDecodeError:
        raise CaptureError(f"{path}: expected JSON lines in UTF-8.") from None
    prompts = [_prompt(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise CaptureError(f"{path}: expected at least one line with a prompt.")
    return prompts


def _prompt(line: str, where: str) -> Prompt:
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise CaptureError(f'{where}: expected a JSON object such as {{"prompt": "…", "task": "…"}}.')
    unknown = sorted(values.keys() - {"prompt", "task"})
    if unknown:
        raise CaptureError(f"{where}, field '{unknown[0]}': expected no fields but 'prompt' and 'task'.")
    text, task = values.get("prompt"), values.get("task")
    if not isinstance(text, str) or not text:
        raise CaptureError(f"{where}, field 'prompt': expected a text that is not empty.")
    if task is not None and not isinstance(task, str):
        raise CaptureError(f"{where}, field 'task': expected a text or null, not {task!r}.")
    return Prompt(text, task)
