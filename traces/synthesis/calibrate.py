"""Corrections that make a model drawn freely show the means that it was fitted to.

Maximum likelihood sees the real history of each token; a model that feeds on its own choices amplifies them. The method
of simulated moments (McFadden, Econometrica 57, 1989), solved by stochastic approximation (Robbins and Monro, 1951):
draw, compare, correct each parameter by the mean that it moves most, with shrinking steps, and take the average of the
last half of the path (Polyak and Juditsky, SIAM J. Control Optim. 30, 1992).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from traces.synthesis.generate import generate_all
from traces.synthesis.model import RoutingModel
from traces.synthesis.moments import Moments, moments

ROUNDS = 40
SLOWING = 8  # rounds after which steps are half as long
# parameter moved per unit of the mean that is off: about the inverse of the slopes seen on real traces
GAIN = {"bias": 0.6, "coupling": 2.0, "sticky": 6.0, "middle": 3.0, "within": 5.0, "prior": 15.0}
LARGEST_MEMORY, LARGEST_PRIOR = 2.0, 2.0


@dataclass(frozen=True, eq=False)
class Correction:
    """What is added to a model's parameters.

    bias [L, E]; coupling [L], the logarithm of a factor; sticky [L]; memory [L, 2]; prior, the logarithm of a factor
    """

    bias: np.ndarray
    coupling: np.ndarray
    sticky: np.ndarray
    memory: np.ndarray
    prior: float = 0.0

    @classmethod
    def none(cls, model: RoutingModel) -> Correction:
        layers = len(model.bias)
        return cls(np.zeros(model.bias.shape), np.zeros(layers), np.zeros(layers), np.zeros(model.memory.shape))

    def apply(self, model: RoutingModel) -> RoutingModel:
        """`model` with this correction."""
        return dataclasses.replace(
            model,
            bias=(model.bias + self.bias).astype(np.float32),
            coupling=model.coupling * np.exp(self.coupling).astype(np.float32)[:, None, None],
            sticky=(model.sticky + self.sticky[:, None]).astype(np.float32),
            memory=np.clip(model.memory + self.memory, -0.5, LARGEST_MEMORY).astype(np.float32),
            prior_tokens=float(model.prior_tokens * np.exp(self.prior)),
        )

    def moved(self, model: RoutingModel, wanted: Moments, found: Moments, step: float) -> Correction:
        """One step nearer to the `wanted` means."""
        small = 0.02 * model.top_k / model.num_experts
        load = np.log((wanted.use + small) / (found.use + small))
        fading = (wanted.near - wanted.middle) - (found.near - found.middle)
        slow = np.stack(
            [GAIN["middle"] * (wanted.middle - found.middle), GAIN["within"] * (wanted.within - found.within)]
        )
        prior = self.prior + step * GAIN["prior"] * float((found.hits - wanted.hits).mean())
        return Correction(
            bias=self.bias + np.clip(step * GAIN["bias"] * load, -1, 1),
            coupling=self.coupling + step * GAIN["coupling"] * (wanted.recall - found.recall),
            sticky=self.sticky + step * GAIN["sticky"] * fading,
            memory=self.memory + step * slow.T,
            prior=float(np.clip(prior, -LARGEST_PRIOR, LARGEST_PRIOR)),
        )


@dataclass(frozen=True, eq=False)
class Target:
    """What the requests drawn in a round should look like: `wanted`, if they have these lengths, kinds and folds."""

    wanted: Moments
    lengths: np.ndarray
    kinds: np.ndarray
    folds: np.ndarray


def calibrate(
    model: RoutingModel,
    target: Callable[[np.random.Generator], Target],
    tables: np.ndarray,
    *,
    seed: int,
    rounds: int = ROUNDS,
) -> RoutingModel:
    """Correct `model` in so many rounds until what it draws has the means it should have; `tables` as for `moments`."""
    rng = np.random.default_rng(seed)
    correction = Correction.none(model)
    path: list[Correction] = []
    for number in range(rounds):
        aim = target(rng)
        drawn = generate_all(correction.apply(model), aim.lengths, aim.kinds, rng)
        found = moments(drawn, model.num_experts, tables, aim.folds)
        correction = correction.moved(model, aim.wanted, found, 1.0 / (1.0 + number / SLOWING))
        if number >= rounds // 2:
            path.append(correction)
    if not path:
        return model
    names = [field.name for field in dataclasses.fields(Correction)]
    mean = {name: np.mean([getattr(point, name) for point in path], axis=0) for name in names}
    return Correction(**mean).apply(model)


def of_requests(
    requests: list[np.ndarray], kinds: np.ndarray, tables: np.ndarray, num_experts: int, tokens: int
) -> Callable[[np.random.Generator], Target]:
    """For `calibrate`: about `tokens` tokens of real requests [tokens, L, k] in a round, all of them in turn.

    Request i is scored by the tables of fold i % F, which should be those of the other requests.
    """
    lengths = np.array([len(experts) for experts in requests])
    waiting: list[int] = []

    def draw(rng: np.random.Generator) -> Target:
        picked: set[int] = set()
        while lengths[list(picked)].sum() < tokens and len(picked) < len(requests):
            if not waiting:
                waiting.extend(rng.permutation(len(requests)).tolist())
            picked.add(waiting.pop())
        rows = np.array(sorted(picked))
        folds = rows % len(tables)
        wanted = moments([requests[row] for row in rows], num_experts, tables, folds)
        return Target(wanted, lengths[rows], kinds[rows], folds)

    return draw
