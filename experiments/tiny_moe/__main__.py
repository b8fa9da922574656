"""`python -m experiments.tiny_moe`: texts, training, checkpoint, trace and statistics of the small model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.explain import ConfigError
from experiments.tiny_moe.ship import CHECKPOINT, save_checkpoint, ship
from experiments.tiny_moe.tokens import prepare
from experiments.tiny_moe.train import Recipe, train


def main() -> int:
    """Do it all; what an earlier call has done is not done again."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tiny_moe", description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("runs/tiny_moe"), help="for texts and the training's state")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help=f"of training (default: {Recipe.steps})")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="folder to write (default: the package's)")
    parser.add_argument("--no-train", action="store_true", help="use the checkpoint that is there")
    options = parser.parse_args()
    try:
        tokenizer, ids, held = prepare(options.cache)
        if not options.no_train:
            model = train(ids, held, options.cache / "state.pt", Recipe(steps=options.steps))
            save_checkpoint(model, tokenizer, options.checkpoint)
        ship(options.checkpoint, held, options.cache, _say)
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
