"""Energy of a run, bottom up: every byte and operation at its price, and the background (docs/energy.md)."""

PARTS = ("attention", "gemm", "experts", "head", "transfers", "background")
PHASES = ("decode", "prefill", "idle")  # steps without tokens of prompts; with some; no step at all
