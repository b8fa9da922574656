"""Training of the small model: cross-entropy, load balancing and router z-loss; resumable."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.tiny_moe.tokens import VOCABULARY

CONFIG = {
    "vocab_size": VOCABULARY,
    "hidden_size": 160,
    "intermediate_size": 32,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
EVALUATION_WINDOWS = 8  # of each domain


@dataclass(frozen=True)
class Recipe:
    """How it is trained. The learning rate rises over `warmup` steps, stays, and falls linearly to 5 % over the last
    `decay` of the steps. Balancing is E · Σ fᵢ Pᵢ of each layer (Switch Transformer, arXiv 2101.03961, eq. 4), the
    z-loss the mean of logsumexp² (ST-MoE, arXiv 2202.08906, eq. 5); both are added over the layers."""

    steps: int = 2100
    sequences: int = 8
    length: int = 256
    learning_rate: float = 3e-3
    warmup: int = 100
    decay: float = 0.4
    weight_decay: float = 0.05
    balance: float = 0.01
    z_loss: float = 1e-3
    seed: int = 0
    save_every: int = 100

    def rate(self, step: int) -> float:
        """Learning rate of a step counted from 0."""
        left = (self.steps - step) / (self.steps * self.decay)
        return self.learning_rate * min((step + 1) / self.warmup, max(left, 0.05), 1.0)


def new_model(seed: int) -> Any:
    """The model with random weights, float32."""
    import torch
    from transformers import OlmoeConfig, OlmoeForCausalLM

    torch.manual_seed(seed)
    return OlmoeForCausalLM._from_config(OlmoeConfig(**CONFIG), experts_implementation="grouped_mm")


def train(train_ids: dict[str, np.ndarray], held: dict[str, list[np.ndarray]], state: Path, recipe: Recipe) -> Any:
    """Train to the end of the recipe, going on from the file `state` if it is there, and return the model."""
    import torch

    model = new_model(recipe.seed)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    first = 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    windows = evaluation_windows(held, recipe.length)
    start, losses = time.perf_counter(), []
    with router_logits(model) as logits:
        for step in range(first, recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
            ids = torch.from_numpy(batch(train_ids, recipe, step))
            logits.clear()
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            balance, z_loss = router_losses(logits, model.config.num_experts_per_tok)
            (loss + recipe.balance * balance + recipe.z_loss * z_loss).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            done = step + 1
            if done % 20 == 0:
                took = (time.perf_counter() - start) / (done - first)
                text = f"step {done} of {recipe.steps}, loss {np.mean(losses[-20:]):.3f}, {took:.2f} s per step,"
                print(f"{text} balance {balance.item() / len(logits):.2f}", file=sys.stderr, flush=True)
            if done % recipe.save_every == 0 or done == recipe.steps:
                partial = state.with_suffix(".partial")
                saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
                torch.save(saved, partial)
                partial.replace(state)
            if done % 500 == 0 or done == recipe.steps:
                means = evaluate(model, windows)
                print(f"held out {np.mean(list(means.values())):.3f}", file=sys.stderr, flush=True)
    return model


def batch(train_ids: dict[str, np.ndarray], recipe: Recipe, step: int) -> np.ndarray:
    """int64 [sequences, length]: windows of domains drawn with weight √tokens; the same for the same step."""
    rng = np.random.default_rng([recipe.seed, step])
    names = list(train_ids)
    weights = np.sqrt([len(train_ids[name]) for name in names])
    rows = []
    for choice in rng.choice(len(names), recipe.sequences, p=weights / weights.sum()):
        ids = train_ids[names[choice]]
        begin = rng.integers(len(ids) - recipe.length)
        rows.append(ids[begin : begin + recipe.length])
    return np.stack(rows).astype(np.int64)


@contextmanager
def router_logits(model: Any) -> Iterator[list[Any]]:
    """A list to which every forward pass adds the router logits [tokens, experts] of each layer, with gradients."""
    seen: list[Any] = []
    gates = [layer.mlp.gate for layer in model.model.layers]
    hooks = [gate.register_forward_hook(lambda _, __, output: seen.append(output[0])) for gate in gates]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def router_losses(logits: list[Any], top_k: int) -> tuple[Any, Any]:
    """(balancing loss, 1 per layer at even loads; z-loss), each added over the layers."""
    import torch

    balance = z_loss = torch.zeros(())
    for layer in logits:
        experts = layer.shape[-1]
        chosen = layer.topk(top_k, dim=-1).indices.reshape(-1)
        share = torch.bincount(chosen, minlength=experts) / len(chosen)
        balance = balance + experts * (share * layer.softmax(-1).mean(0)).sum()
        z_loss = z_loss + layer.logsumexp(-1).square().mean()
    return balance, z_loss


def evaluation_windows(held: dict[str, list[np.ndarray]], length: int) -> dict[str, np.ndarray]:
    """int64 [windows, length] of each domain, at even distances in its held-out text."""
    windows = {}
    for name, documents in held.items():
        ids = np.concatenate(documents)
        starts = np.linspace(0, len(ids) - length, EVALUATION_WINDOWS).astype(int)
        windows[name] = np.stack([ids[begin : begin + length] for begin in starts]).astype(np.int64)
    return windows


def evaluate(model: Any, windows: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean cross-entropy in nats per token of each domain."""
    import torch

    with torch.no_grad():
        tensors = {name: torch.from_numpy(ids) for name, ids in windows.items()}
        return {name: float(model(input_ids=ids, labels=ids, use_cache=False).loss) for name, ids in tensors.items()}
