"""Role `prediction`: which experts come next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.policies.base import Policy
from simulator.routing import Routing
from traces import RequestTrace

Guess = np.ndarray | tuple[np.ndarray, np.ndarray] | None  # blobs, blobs and scores, or nothing


class PredictionPolicy(Policy):
    """Names experts before their layer runs.

    guess(rows, following)  routing of consecutive tokens of one request, and of the token after each
                            ([tokens, layers, top_k], -1 where there is none). Returns blob ids
                            [tokens, layers, width]: what to expect after layer l of token t, most
                            likely first, each once, -1 for nothing; or None for no guess at all.

    May also return a pair: blobs, and scores of the same shape (float, higher is likelier), which `prefetch`
    and `cache` then see; those of several tokens of a step are added up.

    Row (t, l) may be derived from rows.experts[:t + 1] up to layer l (and weights, probabilities), from
    rows.guesses[t, l], and from what was asked before in this run; only a class with `clairvoyant = True`
    may look further. A test checks it.

    expect(layer, routing)  only if `by_step`, and then in place of `guess`: in each routed layer of a step, once its
                            router has spoken, blobs of the layers to come, likeliest first, each once, and their scores
                            or None. Of the routing it may read the layers up to this one, unless it is clairvoyant.
                            Needs a platform of one worker.
    """

    clairvoyant = False
    by_step = False
    hooks = (("expect", "by_step"),)

    def guess(self, rows: RequestTrace, following: np.ndarray) -> Guess:
        raise NotImplementedError

    def expect(self, layer: int, routing: Routing) -> tuple[Sequence[int], Sequence[float] | None]:
        raise NotImplementedError


def require_distance(distance: int, layers: int) -> None:
    """Raise ValueError unless `distance` is from 1 to `layers`, the routed layers of the model."""
    if not 1 <= distance <= layers:
        raise ValueError(
            f"policy.prediction.distance is {distance}; expected 1 to {layers}, the routed layers of the model."
        )


def require_width(width: int | None) -> None:
    """Raise ValueError unless `width` is None or at least 1."""
    if width is not None and width < 1:
        raise ValueError(f"policy.prediction.width is {width}; expected at least 1 or null.")


def most_likely(scores: np.ndarray, width: int) -> np.ndarray:
    """Indices of the `width` largest of integer scores [..., n], best first, ties to the lower index.

    Each score is joined with its index into one unique integer before they are partitioned, so the
    answer is the same on every machine. Scores must be whole, not negative, and below 2^63 / n.
    """
    count = scores.shape[-1]
    keys = scores.astype(np.int64) * count + np.arange(count - 1, -1, -1)
    best = np.partition(keys, count - width, axis=-1)[..., count - width :]
    best.sort(axis=-1)
    return count - 1 - best[..., ::-1] % count


def next_layers(experts: np.ndarray, following: np.ndarray, distance: int) -> np.ndarray:
    """What is routed `distance` layers after each layer, running on into the next token.

    experts, following [tokens, layers, top_k] -> the same shape.
    """
    layers = experts.shape[1]
    return np.concatenate([experts, following], axis=1)[:, distance : distance + layers]


def as_blobs(experts: np.ndarray, distance: int, experts_per_layer: int) -> np.ndarray:
    """Expert ids guessed after each layer for `distance` layers on -> blob ids; -1 stays -1."""
    layers = experts.shape[1]
    target = (np.arange(layers) + distance) % layers
    return np.where(experts >= 0, experts + (target * experts_per_layer)[None, :, None], -1)
