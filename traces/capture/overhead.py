"""What capturing costs: time per decode step with and without the hooks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from traces.capture.hooks import Recorder
from traces.capture.prompts import Prompt
from traces.capture.routers import find_routed_layers
from traces.capture.run import Settings, running_order
from traces.capture.sequences import encode, generate


def decode_times(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], settings: Settings, rounds: int = 5
) -> tuple[float, float]:
    """(without, with) hooks: median seconds per decode step of one batch of `prompts`, both taken in turns."""
    encoded = [encode(tokenizer, prompt.text, settings.prompt_tokens) for prompt in prompts]
    layers = running_order(model, find_routed_layers(model))
    recorder = Recorder(layers, **settings.recorded())
    both: tuple[AbstractContextManager[Any], ...] = (nullcontext(), recorder)
    times: list[list[float]] = [[], []]
    clock: list[float] = []
    hook = model.register_forward_hook(lambda *_: clock.append(time.perf_counter()))
    try:
        for _ in range(rounds):
            for kind, hooks in enumerate(both):
                recorder.clear()
                clock.clear()
                with hooks:
                    generate(model, tokenizer, encoded, settings, 0)
                times[kind].extend(np.diff(clock))
    finally:
        hook.remove()
    return float(np.median(times[0])), float(np.median(times[1]))
