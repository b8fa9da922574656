"""`moesim trace capture`: record the routing of a Hugging Face model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from traces.capture import CaptureError
from traces.capture.prompts import Prompt, read_prompts
from traces.capture.run import Settings, Source, capture_trace, load


def capture(options: argparse.Namespace) -> int:
    """Run the prompts, write the trace and say what came out; with --overhead, say what the hooks cost."""
    settings = Settings(
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
        batch=options.batch,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        probabilities=options.probabilities,
        probability_bits=options.probability_bits,
        guesses=options.guesses,
        norms=options.norms,
        embeddings=options.embeddings,
    )
    if options.out is None and not options.overhead:
        raise CaptureError("moesim trace capture: expected --out TRACE, or --overhead.")
    for switch, file in (("--out", options.out), ("--tokens", options.tokens)):
        if file is not None and not Path(file).parent.is_dir():
            raise CaptureError(f"{switch} {file}: there is no folder {Path(file).parent}.")
    prompts = read_prompts(Path(options.prompts))
    if options.requests is not None:
        if options.requests < 1:
            raise CaptureError(f"--requests is {options.requests}; expected at least 1.")
        prompts = prompts[: options.requests]
    model, tokenizer = load(options.model, dtype=options.dtype, device=options.device, revision=options.revision)
    if options.overhead:
        return _overhead(model, tokenizer, prompts, settings)
    name = options.name or Path(options.model).name
    where = options.model if not options.revision else f"{options.model} at {options.revision}"
    source = Source(model=name, dataset=options.dataset, licence=options.licence, source=where)
    out, tokens = Path(options.out), Path(options.tokens) if options.tokens else None
    trace = capture_trace(model, tokenizer, prompts, out, settings, source, tokens=tokens, say=_say)
    routed = sum(info.tokens for info in trace.requests)
    print(
        f"{out}: {trace.meta.model}, {len(trace)} requests, {routed} tokens, {len(trace.meta.layers)} layers of"
        f" {trace.meta.num_experts} experts, top-{trace.meta.top_k}"
    )
    print(f"use it with: moesim run trace={out}")
    return 0


def _overhead(model: object, tokenizer: object, prompts: list[Prompt], settings: Settings) -> int:
    from traces.capture.overhead import decode_times

    plain, recorded = decode_times(model, tokenizer, prompts[: settings.batch], settings)
    print(
        f"decode step of {min(settings.batch, len(prompts))} sequences: {plain * 1e3:.2f} ms without hooks,"
        f" {recorded * 1e3:.2f} ms with them ({recorded / plain - 1:+.1%})"
    )
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
