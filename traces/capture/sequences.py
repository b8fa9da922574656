"""Batches of token sequences: padding, seeded sampling, and which columns of a batch are whose tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from traces.capture import CaptureError
from traces.schema import DECODE, PREFILL

if TYPE_CHECKING:
    from traces.capture.run import Settings


@dataclass(frozen=True)
class Generated:
    """A batch after generation: prompts bool [B, S], true where a token is one and not padding; prompt ids by
    sequence; ids [B, n] of new tokens; `ended`: new tokens of each sequence up to and with its end token."""

    mask: np.ndarray
    prompts: list[list[int]]
    ids: np.ndarray
    ended: list[int]
    encoder_decoder: bool

    def tokens(self, row: int) -> dict[str, np.ndarray]:
        """Token ids of a sequence: of its prompt, and those generated."""
        return {"prompt": np.array(self.prompts[row]), "generated": self.ids[row, : self.ended[row]]}

    @property
    def decoded(self) -> int:
        """Columns of the decode phase. The last new token is never fed; a decoder of its own is fed a start token."""
        return self.ids.shape[1] - (0 if self.encoder_decoder else 1)

    def columns(self, stack: str, tokens: int, kept: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(rows of `kept`, columns of a layer's arrays) of the tokens that the layer saw.

        `tokens` is how many the layer saw of each sequence. Raises CaptureError if that is not what was fed.
        """
        prompt = self.mask.shape[1]
        first, last = (0, prompt + self.decoded)
        if self.encoder_decoder:
            first, last = (0, prompt) if stack == "encoder" else (prompt, prompt + self.decoded)
        if tokens != last - first:
            raise CaptureError(f"{name}: the layer saw {tokens} tokens of each sequence; expected {last - first}.")
        at = np.flatnonzero((kept >= first) & (kept < last))
        return at, kept[at] - first


def rows(batch: Generated, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(columns of the batch, positions int32, phases int8), [T] each, of one sequence's routed tokens."""
    prompt = np.flatnonzero(batch.mask[row])
    fed = batch.ended[row] - (0 if batch.encoder_decoder else 1)
    kept = np.concatenate([prompt, batch.mask.shape[1] + np.arange(fed)])
    phases = np.repeat(np.array([PREFILL, DECODE], np.int8), [len(prompt), fed])
    return kept, np.arange(len(kept), dtype=np.int32), phases


def encode(tokenizer: Any, text: str, limit: int) -> list[int]:
    """Token ids of a text, the first `limit` of them if that is not 0. Raises CaptureError if there is none."""
    ids = list(tokenizer(text)["input_ids"])
    if not ids:
        raise CaptureError(f"the prompt {text[:40]!r} has no tokens.")
    return ids[:limit] if limit else ids


def generate(model: Any, tokenizer: Any, prompts: Sequence[list[int]], settings: Settings, first: int) -> Generated:
    """Prefill and decode a batch with the KV cache; the draw depends on the seed and the number `first` of the first
    request alone, and torch's own generators are left as they were."""
    import torch
    from transformers import GenerationConfig

    padded, mask = _padded(model, tokenizer, prompts)
    length = padded.shape[1]
    own, config = model.generation_config, model.config
    ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
    sampling: dict[str, Any] = {"do_sample": False}
    if settings.temperature > 0:
        sampling = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
    generation = GenerationConfig(
        max_new_tokens=settings.new_tokens,
        use_cache=True,
        eos_token_id=ends,
        pad_token_id=_pad(model, tokenizer),
        decoder_start_token_id=own.decoder_start_token_id or getattr(config, "decoder_start_token_id", None),
        **sampling,
    )
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(np.random.SeedSequence([settings.seed, first]).generate_state(1)[0].item())
        out = model.generate(input_ids=padded, attention_mask=mask, generation_config=generation)
    start = 1 if config.is_encoder_decoder else length
    ids = out[:, start:].cpu().numpy()
    stops = {ends} if isinstance(ends, int) else set(ends or ())
    ended = [next((n + 1 for n, token in enumerate(row) if token in stops), len(row)) for row in ids.tolist()]
    kept = mask.bool().cpu().numpy()
    return Generated(kept, [list(prompt) for prompt in prompts], ids, ended, config.is_encoder_decoder)


def prompt_embedding(model: Any, prompt: Sequence[int]) -> np.ndarray:
    """float32 [H]: mean of the input embeddings of a prompt's tokens, summed in float64.

    FineMoE (arXiv:2502.05370) searches for requests alike by what the model's embedding layer gives: it is there before
    any layer runs, and depends on the prompt alone, not on how it was batched. Raises CaptureError if the model does
    not say which layer that is.
    """
    import torch

    try:
        layer = model.get_input_embeddings()
    except NotImplementedError:
        layer = None
    if layer is None:
        raise CaptureError(
            f"{type(model).__name__}: it does not say which layer embeds its tokens; leave --embeddings out."
        )
    with torch.no_grad():
        vectors = layer(torch.tensor(prompt, device=layer.weight.device))
    mean: np.ndarray = vectors.double().mean(0).float().cpu().numpy()
    return mean


def prompt_loss(model: Any, prompts: Sequence[list[int]]) -> float | None:
    """Mean cross-entropy of prompts in nats per token, one at a time; None for an encoder-decoder or without pairs."""
    import torch

    if model.config.is_encoder_decoder:
        return None
    total, count = 0.0, 0
    with torch.no_grad():
        for prompt in prompts:
            ids = torch.tensor([prompt], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += len(prompt) - 1
    return total / count if count else None


def _padded(model: Any, tokenizer: Any, prompts: Sequence[list[int]]) -> tuple[Any, Any]:
    """(ids, mask) [B, S], padded on the left, or on the right for an encoder."""
    import torch

    length, pad = max(len(prompt) for prompt in prompts), _pad(model, tokenizer)
    ids, mask = [], []
    for prompt in prompts:
        missing = length - len(prompt)
        right = model.config.is_encoder_decoder
        ids.append([*prompt, *[pad] * missing] if right else [*[pad] * missing, *prompt])
        mask.append([*[1] * len(prompt), *[0] * missing] if right else [*[0] * missing, *[1] * len(prompt)])
    return torch.tensor(ids, device=model.device), torch.tensor(mask, device=model.device)


def _pad(model: Any, tokenizer: Any) -> int:
    for token in (tokenizer.pad_token_id, model.generation_config.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0
