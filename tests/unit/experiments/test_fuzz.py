"""Whatever is thrown at it, the command line answers with 0 or with 2 and one line, never with a traceback."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.compose import CONF, choices

SHORT = ["experiment=smoke", "workload.max_decode_tokens=1", "workload.requests=1", "reference=false"]
KEYS = """
seed cache_gib host_cache_gib timeline
name workload.batch_size workload.requests workload.first_request
workload.synthetic_prefill workload.warmup_requests settings.chunk_bytes settings.workspace_bytes
model.layers model.top_k model.experts model.attention
platform.home platform.workers platform.devices platform.links
trace.path policy.cache policy.prediction policy.cache._target_
model.experts_bits platform.devices.gpu0.kind
"""
VALUES = [
    "0",
    "1",
    "-1",
    "2.5",
    "1e9",
    "1e-9",
    "nan",
    "inf",
    "null",
    "true",
    "false",
    "x",
    "[]",
    "[1,2]",
    "{}",
    "{a:1}",
    "''",
    "'b",
    "ssd",
    "cpu",
    "gpu0",
    "[gpu0]",
    "[cpu]",
    "'${x}'",
    "'${seed}'",
    "???",
    "a=b",
    "a,b",
    "/",
    "../x",
    "~",
    "simulator.model.ModelSpec",
]
GROUPS = sorted(choices())


def one_line(call: Callable, overrides: list[str]) -> None:
    said = call("run", *SHORT, "-q", *overrides)
    assert said.code in (0, 2), overrides
    assert "Traceback" not in said.err, overrides
    assert said.err.count("\n") == (1 if said.code == 2 else 0), (overrides, said.err)
    assert said.out == ""


@pytest.mark.parametrize("seed", range(4))
def test_mutated_overrides(call: Callable, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(14):
        key, value = rng.choice(KEYS.split()), rng.choice(VALUES)
        group = rng.choice(GROUPS)
        override = rng.choice(
            [
                f"{key}={value}",
                f"{key}={value}",
                f"+{key}={value}",
                f"++{key}.x={value}",
                f"~{key}",
                f"{group}={rng.choice(choices()[group])}",
                f"{group}={value}",
                "".join(rng.choice("abc=,[]{}'\"~+/.$:@ ") for _ in range(8)),
            ]
        )
        one_line(call, [override])


@pytest.mark.parametrize("group", ["model", "platform", "system", "policy/cache", "trace", "experiment"])
def test_mutated_files(call: Callable, tmp_path: Path, group: str) -> None:
    rng = random.Random(group)
    sources = sorted((CONF / group).glob("*.yaml"))
    for number in range(12):
        text = rng.choice(sources).read_text()
        for _ in range(rng.randrange(1, 4)):
            place = rng.randrange(len(text))
            lines = text.splitlines(keepends=True)
            line = rng.randrange(len(lines))
            text = rng.choice(
                [
                    lambda t=text, p=place: t[:p] + rng.choice("x:-[]{}'\"#&*!%\t\n0 ") + t[p + 1 :],
                    lambda t=text, p=place: t[:p] or "a: 1\n",
                    lambda ls=lines, n=line: "".join(ls[:n] + ls[n + 1 :]) or "a: 1\n",
                    lambda ls=lines, n=line: "".join(ls[:n] + [ls[n]] + ls[n:]),
                    lambda ls=lines, n=line: "".join([*ls[:n], ls[n].split(":")[0] + f": {rng.choice(VALUES)}\n"]),
                ]
            )()
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        one_line(call, [f"{group}={path}"])
