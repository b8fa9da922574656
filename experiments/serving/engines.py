"""Constants of serving engines: fitted ones from engines.yaml, and how a Row becomes a Framework."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from experiments.compose import read_yaml
from experiments.explain import ConfigError
from experiments.serving.rows import Row
from simulator.serving import Framework

FILE = Path(__file__).parent / "engines.yaml"

KERNELS = {"vllm": "VLLM", "sglang": "VLLM", "trtllm": "TRTLLM"}
"""Backend -> engine whose kernels were measured; SGLang's share theirs with vLLM (FlashInfer, DeepGEMM, Triton)."""

SCHEDULE: dict[str, dict[str, Any]] = {
    "vllm": {"budget": 8192.0, "apart": False},
    "trtllm": {"budget": 8192.0, "apart": False},
    "sglang": {"budget": 16384.0, "apart": True},
}
"""How engines schedule, from their documentation: tokens of a step (vLLM max_num_batched_tokens, TensorRT-LLM
max_num_tokens, SGLang chunked_prefill_size on large GPUs), and whether prompts have steps of their own (SGLang)."""


DRAFTS = 3.0
"""Guesses that a step verifies where a release makes them: three, as in TensorRT-LLM's and SGLang's guides to serving
DeepSeek-R1 with its multi-token prediction."""

DRAFT_HEADS = re.compile(r"deepseek.?(v3|r1)", re.IGNORECASE)
"""Names of models whose checkpoint brings a layer that predicts further tokens, and which engines guess with."""


def has_draft_head(model: str) -> bool:
    """Whether engines guess tokens ahead with a layer that comes with the model."""
    return DRAFT_HEADS.search(model) is not None


@dataclass(frozen=True)
class Engine:
    """An engine's constants.

    values    fields of simulator.serving.Framework that are fitted
    versions  version -> factors `tpot` and `ttft` of what that release, or how it was set up, changes; `accepted`, the
              tokens that a step yields where it guesses ahead (has_draft_head)
    disagg    `sequences` that a rank decodes where a row does not say, `ttft` factor on a lone prompt's time
    """

    values: Mapping[str, float]
    versions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    disagg: Mapping[str, float] = field(default_factory=lambda: {"sequences": 16.0, "ttft": 1.0})

    def framework(self, row: Row) -> Framework:
        """What simulator.serving.answer takes, for the release and the model of a row."""
        fields: dict[str, Any] = {**self.values, **SCHEDULE[row.backend]}
        accepted = self.versions.get(row.version, {}).get("accepted", 1.0)
        if accepted > 1.0 and has_draft_head(row.model):
            fields |= {"drafts": DRAFTS, "accepted": accepted}
        return Framework(**fields)

    def factor(self, version: str, what: str) -> float:
        """The release's factor on `tpot` or `ttft`; 1 for one that was not seen."""
        return float(self.versions.get(version, {}).get(what, 1.0))


@cache
def engines(path: Path = FILE) -> dict[str, Engine]:
    """Backend -> constants. Raises ConfigError if the file is no such file."""
    content = read_yaml(path)
    try:
        return {
            str(name): Engine(
                {key: float(value) for key, value in part["values"].items()},
                {str(key): dict(value) for key, value in part.get("versions", {}).items()},
                {key: float(value) for key, value in part["disagg"].items()},
            )
            for name, part in content["engines"].items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path}: expected engines with values and disagg, as moesim writes it ({error}).") from None
