"""A capture from the prompts to the trace file."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from traces.capture import CaptureError
from traces.capture.hooks import Recorder
from traces.capture.journal import Journal
from traces.capture.prompts import Prompt
from traces.capture.routers import RoutedLayer, find_routed_layers
from traces.capture.sequences import Generated, encode, generate, prompt_embedding, prompt_loss, rows
from traces.reader import Trace, open_trace
from traces.schema import RequestTrace, TraceMeta
from traces.writer import TraceWriter

UNTRAINED = 0.75  # of ln(vocabulary): cross-entropy of prompts above which a model has hardly learnt anything
LOCALITY_WARNING = (
    "random and barely trained models repeat experts several times as often as trained ones, so do not use this trace"
    " for cache or prefetch results"
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a capture does. Prompts are cut at `prompt_tokens` (0: whole); `new_tokens` are sampled after each, at
    `temperature` (0: greedy) from the whole vocabulary unless `top_p` < 1. `batch` prompts run together, and sampling
    depends on which. `guesses` is the farthest look-ahead distance, 0 to 3. Probabilities are rounded
    to `probability_bits` significant bits (24: not at all; 8: as bfloat16), since they are most of a trace's bytes.
    `norms` are of the hidden states that routers are given, `embeddings` of the prompts."""

    prompt_tokens: int = 0
    new_tokens: int = 64
    batch: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    probabilities: bool = False
    probability_bits: int = 24
    guesses: int = 0
    norms: bool = False
    embeddings: bool = False

    def recorded(self) -> dict[str, Any]:
        """What the hooks shall note beside the experts and weights: arguments of `Recorder`."""
        return {"probabilities": self.probabilities, "distances": self.guesses, "norms": self.norms}

    def __post_init__(self) -> None:
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if not least <= value <= most:
                upper = f" to {most}" if most < 2**31 else " or more"
                raise CaptureError(f"'{name}' is {value}; expected {least}{upper}.")


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("prompt_tokens", 0, 2**31),
    ("new_tokens", 1, 2**31),
    ("batch", 1, 2**31),
    ("temperature", 0, 100),
    ("top_p", 1e-6, 1),
    ("seed", 0, 2**31),
    ("probability_bits", 2, 24),
    ("guesses", 0, 3),
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is said about the trace in its metadata."""

    model: str
    dataset: str = ""
    licence: str = ""
    source: str = ""


def load(name: str, *, dtype: str = "auto", device: str = "cpu", revision: str | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder or a name on the Hugging Face hub, ready to generate.

    Raises CaptureError if torch or transformers is missing, or the model cannot be read.
    """
    try:
        import torch
        import transformers
    except ImportError:
        raise CaptureError("capture needs torch and transformers: pip install 'moesim[capture]'.") from None
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise CaptureError(f"dtype '{dtype}' is none of torch; expected auto, float32, bfloat16 or float16.")
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(name, revision=revision)
        kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, revision=revision)
        model = kind.from_pretrained(name, revision=revision, dtype=dtype).to(device).eval()
    except (OSError, ValueError, RuntimeError, AssertionError) as error:  # the last: torch without CUDA
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise CaptureError(f"{name}: the model cannot be loaded ({first}).") from None
    return model, tokenizer


def capture_trace(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    out: Path,
    settings: Settings,
    source: Source,
    *,
    tokens: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Trace:
    """Run `prompts` through `model` and write what its routers chose to `out`; go on if it was begun before.

    The token ids go to the JSON-lines file `tokens`, if given. `say` gets progress and warnings. Raises CaptureError
    if the model is not one that can be captured, or the folder beside `out` holds a capture with other settings.
    """
    layers = running_order(model, find_routed_layers(model))
    journal = Journal(out, _identity(model, prompts, settings, source))
    encoded = [encode(tokenizer, prompt.text, settings.prompt_tokens) for prompt in prompts]
    loss = prompt_loss(model, encoded[: settings.batch])
    start, done, captured = time.perf_counter(), 0, 0
    with Recorder(layers, **settings.recorded()) as recorder:
        for first in range(0, len(prompts), settings.batch):
            numbers = range(first, min(first + settings.batch, len(prompts)))
            if not all(journal.has(number) for number in numbers):
                recorder.clear()
                generated = generate(model, tokenizer, [encoded[number] for number in numbers], settings, first)
                arrays = recorder.arrays(len(numbers))
                for row, number in enumerate(numbers):
                    request = _request(number, layers, arrays, generated, row, settings)
                    if settings.embeddings:
                        request = replace(request, embedding=prompt_embedding(model, encoded[number]))
                    journal.add(request, generated.tokens(row))
                    captured += request.tokens
            done = numbers[-1] + 1
            rate = captured / (time.perf_counter() - start)
            say(f"request {done} of {len(prompts)}" + (f", {rate:.0f} routed tokens/s" if captured else ", kept"))
    if _untrained(model, loss):
        say(f"warning: the prompts' cross-entropy is {loss:.2f} nats per token; {LOCALITY_WARNING}")
    request, _ = next(journal.requests(1))
    meta = _meta(model, layers, settings, source, loss, request)
    with TraceWriter(out, meta) as writer:
        for request, _ in journal.requests(len(prompts)):
            writer.write(request, prompts[request.id].task)
    if tokens is not None:
        with tokens.open("w", encoding="utf-8") as file:
            for request, ids in journal.requests(len(prompts)):
                values = {name: array.tolist() for name, array in ids.items()}
                file.write(json.dumps({"request": request.id, **values}) + "\n")
    journal.remove()
    return open_trace(out)


def _untrained(model: Any, loss: float | None) -> bool:
    return loss is not None and bool(loss > UNTRAINED * np.log(model.config.get_text_config().vocab_size))


def _meta(
    model: Any,
    layers: Sequence[RoutedLayer],
    settings: Settings,
    source: Source,
    loss: float | None,
    like: RequestTrace,
) -> TraceMeta:
    """The metadata of a trace whose requests have shapes as those of `like`."""
    import torch
    import transformers

    width = like.experts.shape[-1]
    notes = [
        f"captured with torch {torch.__version__.partition('+')[0]} and transformers {transformers.__version__},"
        f" {str(model.dtype).removeprefix('torch.')}",
        f"temperature {settings.temperature:g}, top-p {settings.top_p:g}, seed {settings.seed}, batches of"
        f" {settings.batch}",
    ]
    if loss is not None:
        notes.append(f"cross-entropy of the first prompts {loss:.2f} nats per token")
    if settings.probabilities:
        rounded = f", {settings.probability_bits} significant bits" if settings.probability_bits < 24 else ""
        notes.append(f"probabilities are the {layers[0].scores} of the router logits{rounded}")
    if settings.norms:
        notes.append("norms are of the hidden states given to the routers")
    if settings.embeddings:
        notes.append("embeddings are the mean of the input embeddings of the prompt's tokens")
    if any(layer.unsorted for layer in layers):
        notes.append("slots by weight, as the router does not order them")
    ordinal = len({layer.index for layer in layers}) < len(layers)
    if ordinal:
        notes.append("layers are ordinals of routed modules: " + ", ".join(layer.name for layer in layers))
    if _untrained(model, loss):
        notes.append(f"the model has hardly been trained: {LOCALITY_WARNING}")
    return TraceMeta(
        model=source.model,
        num_experts=max(layer.num_experts for layer in layers),
        top_k=width,
        native_top_k=width,
        layers=tuple(range(len(layers))) if ordinal else tuple(layer.index for layer in layers),
        expert_bytes=tuple(layer.expert_bytes for layer in layers),
        has_weights=True,
        has_probabilities=settings.probabilities,
        guess_distances=settings.guesses,
        guess_width=width if settings.guesses else 0,
        has_norms=settings.norms,
        embedding_width=0 if like.embedding is None else len(like.embedding),
        capture_tool="moesim trace capture",
        dataset=source.dataset,
        licence=source.licence,
        source=source.source,
        notes="; ".join(notes),
    )


def running_order(model: Any, layers: Sequence[RoutedLayer]) -> list[RoutedLayer]:
    """The layers in the order in which they run, found with one token. Raises CaptureError if one never does."""
    import torch

    ids = torch.ones((1, 2), dtype=torch.long, device=model.device)
    with Recorder(layers) as recorder, torch.no_grad():
        more = {"decoder_input_ids": ids[:, :1]} if model.config.is_encoder_decoder else {"use_cache": False}
        model(input_ids=ids, **more)
        recorder.arrays(1)
        return recorder.order


def _request(
    number: int,
    layers: Sequence[RoutedLayer],
    arrays: Sequence[dict[str, np.ndarray]],
    generated: Generated,
    row: int,
    settings: Settings,
) -> RequestTrace:
    """What the routers chose for one sequence of a batch; layers with fewer slots or experts are filled up."""
    kept, positions, phases = rows(generated, row)
    shape = (len(kept), len(layers))
    width = max(layer["ids"].shape[-1] for layer in arrays)
    experts = np.full((*shape, width), -1, np.int16)
    weights = np.full((*shape, width), np.nan, np.float32)
    count = max(layer.num_experts for layer in layers)
    probabilities = np.full((*shape, count), np.nan, np.float32) if settings.probabilities else None
    guesses = np.full((*shape, settings.guesses, width), -1, np.int16) if settings.guesses else None
    norms = np.full(shape, np.nan, np.float32) if settings.norms else None
    for ordinal, (layer, noted) in enumerate(zip(layers, arrays, strict=True)):
        at, column = generated.columns(layer.stack, noted["ids"].shape[1], kept, layer.name)
        slots = noted["ids"].shape[-1]
        experts[at, ordinal, :slots] = noted["ids"][row, column]
        weights[at, ordinal, :slots] = noted["weights"][row, column]
        if probabilities is not None:
            rounded = _rounded(noted["probabilities"][row, column], settings.probability_bits)
            probabilities[at, ordinal, : layer.num_experts] = rounded
        if guesses is not None:
            guesses[at, ordinal, :, :slots] = noted["guesses"][row, column]
        if norms is not None:
            norms[at, ordinal] = noted["norms"][row, column, 0]
    return RequestTrace(
        id=number,
        positions=positions,
        phases=phases,
        experts=experts,
        weights=weights,
        probabilities=probabilities,
        guesses=guesses,
        norms=norms,
    )


def _rounded(values: np.ndarray, bits: int) -> np.ndarray:
    """float32 values to so many significant bits, to the nearest."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.rint(fraction * 2.0**bits) / 2.0**bits, exponent).astype(np.float32)


def _identity(model: Any, prompts: Sequence[Prompt], settings: Settings, source: Source) -> dict[str, Any]:
    """What a capture's content depends on, but for the weights."""
    import torch
    import transformers

    text = json.dumps([[prompt.text, prompt.task] for prompt in prompts]).encode()
    config = json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode()
    return {
        **asdict(settings),
        "model": source.model,
        "prompts": hashlib.sha256(text).hexdigest(),
        "config": hashlib.sha256(config).hexdigest(),
        "dtype": str(model.dtype),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
