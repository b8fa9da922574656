"""From the trained model to what ships: a bf16 checkpoint, a trace captured with it, a page of its statistics."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.tiny_moe.tokens import END
from experiments.tiny_moe.train import evaluate, evaluation_windows
from traces import DATA_FOLDER, Trace
from traces.capture.prompts import read_prompts
from traces.capture.run import Settings, Source, capture_trace, load
from traces.statistics import summarise

CHECKPOINT = Path(__file__).parent / "checkpoint"
TRACE = DATA_FOLDER / "tiny_moe.parquet"
PAGE = Path(__file__).parent / "statistics.md"
REQUESTS = 8  # of each domain
SHIPPED = Settings(prompt_tokens=48, new_tokens=41, batch=8, probabilities=True, probability_bits=8, guesses=3)
HELD_OUT = Settings(prompt_tokens=256, new_tokens=1, batch=8, guesses=2)
DATASET = "held-out text of ten domains (experiments/tiny_moe/CORPORA.md)"


def save_checkpoint(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model (bf16) and tokenizer as transformers reads them."""
    import torch
    from transformers import PreTrainedTokenizerFast

    model.to(torch.bfloat16).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(folder)


def write_prompts(tokenizer: Any, held: dict[str, list[np.ndarray]], tokens: int, file: Path) -> None:
    """Windows of about `tokens` tokens at even distances in the held-out text of each domain, as JSON lines."""
    lines = []
    for name, documents in held.items():
        ids = np.concatenate(documents)
        for start in np.linspace(0, len(ids) - 2 * tokens, REQUESTS).astype(int):
            window = [token for token in ids[start : start + 2 * tokens].tolist() if token]
            lines.append(json.dumps({"prompt": tokenizer.decode(window), "task": name}, ensure_ascii=False))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def ship(checkpoint: Path, held: dict[str, list[np.ndarray]], cache: Path, say: Any) -> None:
    """Capture the shipped trace and one of held-out text with the checkpoint, and write the page about both."""
    model, tokenizer = load(str(checkpoint))
    made = {}
    for name, settings, out in (("shipped", SHIPPED, TRACE), ("held_out", HELD_OUT, cache / "held_out.parquet")):
        prompts = cache / f"prompts_{name}.jsonl"
        write_prompts(tokenizer, held, settings.prompt_tokens, prompts)
        source = Source(model="tiny_moe", dataset=DATASET, licence="Apache-2.0", source=origin(checkpoint))
        made[name] = capture_trace(model, tokenizer, read_prompts(prompts), out, settings, source, say=say)
    losses = evaluate(model, evaluation_windows(held, 256))
    PAGE.write_text(page(losses, unigram_loss(held), made["held_out"], made["shipped"]), encoding="utf-8")


def origin(checkpoint: Path) -> str:
    """Which weights: the digest of their file."""
    digest = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    return f"experiments/tiny_moe/checkpoint/model.safetensors@sha256:{digest}"


def unigram_loss(held: dict[str, list[np.ndarray]]) -> float:
    """Cross-entropy in nats of the held-out tokens of all domains, weighed alike, under their own frequencies."""
    counts = [np.bincount(np.concatenate(documents)) for documents in held.values()]
    shares = np.zeros(max(map(len, counts)))
    for count in counts:
        shares[: len(count)] += count / count.sum() / len(counts)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def page(losses: dict[str, float], unigram: float, held_out: Trace, shipped: Trace) -> str:
    """Markdown: losses, and for both traces what their routing looks like by layer, beside controls."""
    text = [
        "# Statistics of the small model",
        "",
        "Written by `python -m experiments.tiny_moe`; what the names mean: `moesim trace stats`.",
        "",
        f"Held-out cross-entropy {np.mean(list(losses.values())):.2f} nats per token, the mean over the domains"
        f" (unigram {unigram:.2f}): " + ", ".join(f"{name} {loss:.2f}" for name, loss in losses.items()) + ".",
    ]
    for title, trace in (("Held-out text, read", held_out), ("The shipped trace: prompts and sampled text", shipped)):
        values = summarise(trace)
        layers = values["by_layer"]
        text += ["", f"## {title}", "", f"{values['requests']} requests, {values['tokens']} routed tokens.", ""]
        text += ["| statistic | mean | by layer |", "|---|---|---|"]
        for key in _ROWS:
            value, of_layers = values.get(key), layers.get(key)
            if value is None:
                continue
            if isinstance(value, dict):
                for distance, part in value.items():
                    by_layer = _numbers(of_layers) if distance == "1" and of_layers is not None else ""
                    text.append(f"| `{key}`, {distance} ahead | {_number(part)} | {by_layer} |")
            else:
                text.append(f"| `{key}` | {_number(value)} | {_numbers(of_layers) if of_layers else ''} |")
    return "\n".join(text) + "\n"


_ROWS = (
    "load_max_over_mean",
    "load_max_over_mean_uniform",
    "first_choice_repeat",
    "first_choice_repeat_shuffle",
    "consecutive_overlap",
    "consecutive_overlap_within_request_shuffle",
    "consecutive_overlap_global_shuffle",
    "consecutive_overlap_uniform",
    "look_ahead_recall",
    "look_ahead_recall_shuffle",
    "popularity_recall",
    "same_task_similarity",
    "other_task_similarity",
)


def _number(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value < 10 else f"{value:.1f}"


def _numbers(values: Any) -> str:
    return " ".join("–" if value is None else _number(value) for value in values)  # noqa: RUF001
