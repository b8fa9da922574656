"""The vocabulary of the small model, and the domains as token ids; both kept in the cache folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.tiny_moe.corpora import read_domains, split

VOCABULARY = 3072
END = "<|eos|>"  # between documents; token 0
SAMPLE_CHARACTERS = 1_500_000  # of each domain, for the vocabulary


def prepare(cache: Path) -> tuple[Any, dict[str, np.ndarray], dict[str, list[np.ndarray]]]:
    """(tokenizer, training ids by domain, held-out documents' ids by domain); all ids are uint16 [tokens].

    Raises ConfigError if the texts cannot be had.
    """
    from tokenizers import Tokenizer

    vocabulary, stored = cache / "tokenizer.json", cache / "tokens.npz"
    if not (vocabulary.exists() and stored.exists()):
        domains = {name: split(documents) for name, documents in read_domains(cache).items()}
        tokenizer = learn({name: kept for name, (kept, _) in domains.items()})
        arrays: dict[str, Any] = {}
        for name, (kept, apart) in domains.items():
            arrays[f"train_{name}"] = np.concatenate(_encode(tokenizer, kept))
            documents = _encode(tokenizer, apart)
            arrays[f"held_{name}"] = np.concatenate(documents)
            arrays[f"ends_{name}"] = np.cumsum([len(ids) for ids in documents])
        np.savez(stored, **arrays)
        tokenizer.save(str(vocabulary))
    tokenizer = Tokenizer.from_file(str(vocabulary))
    with np.load(stored) as arrays:
        names = [key.removeprefix("train_") for key in arrays if key.startswith("train_")]
        train = {name: arrays[f"train_{name}"] for name in names}
        held = {name: np.split(arrays[f"held_{name}"], arrays[f"ends_{name}"][:-1]) for name in names}
    return tokenizer, train, held


def learn(domains: dict[str, list[str]]) -> Any:
    """A byte-level BPE of `VOCABULARY` tokens, learnt from an even sample of the documents of each domain."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        (text for documents in domains.values() for text in _sample(documents, SAMPLE_CHARACTERS)), trainer
    )
    return tokenizer


def _sample(documents: list[str], characters: int) -> list[str]:
    total = sum(len(text) for text in documents)
    return documents[:: max(1, round(total / characters))]


def _encode(tokenizer: Any, documents: list[str]) -> list[np.ndarray]:
    return [np.array([*item.ids, 0], dtype=np.uint16) for item in tokenizer.encode_batch(documents)]
