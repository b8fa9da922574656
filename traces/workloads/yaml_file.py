"""Reading the YAML of a specification: no key twice, and 1e-3 is a number (for YAML 1.1 it is a text)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from traces.workloads.requests import WorkloadError


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if key.value in names[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' twice", key.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+"), list("-+.0123456789")
)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The mapping in a file. Raises WorkloadError, one sentence that names the file, if it holds none."""
    try:
        spec = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise WorkloadError(f"{path}: {(error.strerror or 'cannot be read').lower()}.") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise WorkloadError(f"{path}{place}: this is not YAML{f' ({problem})' if problem else ''}.") from None
    if not isinstance(spec, Mapping):
        raise WorkloadError(f"{path}: expected a mapping with the keys of a workload.")
    return spec
