"""What a point's result depends on, as one hash: its configuration, the code, the trace."""

from __future__ import annotations

import hashlib
import json
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from experiments.policy import source_digest
from experiments.run import trace_of, trace_path
from traces import TraceError
from traces.workloads import open_requests

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("traces", "hwmodels", "simulator")  # code and calibration data
FILES = ("experiments/run.py", "experiments/policy.py", "experiments/uncertainty.py", "experiments/sweep/runner.py")
_LABELS = ("name", "out", "experiment")


@cache
def code_digest() -> str:
    """SHA-256 over path and content of the files that decide a result: code and calibration, not the traces."""
    files = [ROOT / name for name in FILES]
    for package in PACKAGES:
        files += [
            path
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and path.parent != ROOT / "traces" / "data"
        ]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def trace_digest(config: dict[str, Any]) -> str:
    """The digest of the trace's content; 'unreadable' where running the point will say why."""
    try:
        return trace_of(config).meta.digest
    except TraceError:
        return "unreadable"


def trace_content(config: dict[str, Any]) -> str:
    """SHA-256 of the trace's file as it is now, which a digest in its metadata need not match after an edit."""
    try:
        path = trace_path(config["trace"])
        stat = path.stat()
        return _file_digest(path, stat.st_mtime_ns, stat.st_size)
    except (TraceError, OSError):
        return "unreadable"


def request_list_digest(config: dict[str, Any]) -> str | None:
    """The digest of the request list that `workload.file` gives, None without; 'unreadable' as `trace_digest`."""
    if config["workload"]["file"] is None:
        return None
    try:
        return open_requests(config["workload"]["file"], trace_of(config).requests, config["seed"]).digest()
    except (TraceError, OSError):
        return "unreadable"


def intensity_digest(config: dict[str, Any]) -> str | None:
    """The digest of the file that `settings.carbon_g_per_kwh` names, None if it is a number or not set."""
    path = Path(str(config["settings"]["carbon_g_per_kwh"])).expanduser()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


@lru_cache(maxsize=256)
def _file_digest(path: Path, mtime_ns: int, size_bytes: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def point_id(config: dict[str, Any]) -> str:
    """SHA-256, hexadecimal, of a plain configuration without its labels, code, trace and the user's policies."""
    kept = {key: value for key, value in config.items() if key not in _LABELS}
    kept["system"] = None  # its name and description
    kept["platform"] = {key: value for key, value in config["platform"].items() if key != "search"}  # no run reads it
    parts = [kept, code_digest(), trace_digest(config), trace_content(config), request_list_digest(config)]
    parts.append(intensity_digest(config))
    for policy in config["policy"].values():
        parts.append(source_digest(str(policy.get("_target_"))))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
