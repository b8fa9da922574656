"""The parameters of a generative model of routing, and what they mean."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from traces.synthesis.gate import GateProfile
from traces.synthesis.weights import WeightProfile

DECAYS = (0.97, 1.0)  # per token: what a request remembers of its recent tokens, and of all


@dataclass(frozen=True, eq=False)
class RequestModel:
    """The requests of the source, R of them; synthetic ones follow their order.

    kinds     int64 [R], kind of each
    tokens    int64 [R], routed tokens
    tasks     R labels or None
    phases    shares of a request's tokens that are prefill, decode and of unknown phase; they sum to 1
    first_position  of a request's first token: the length of a prompt that was not recorded
    """

    kinds: np.ndarray
    tokens: np.ndarray
    tasks: tuple[str | None, ...]
    phases: tuple[float, float, float] = (0.0, 1.0, 0.0)
    first_position: int = 0


@dataclass(frozen=True, eq=False)
class RoutingModel:
    """Scores of the experts of a layer for a token; the k largest of scores plus Gumbel noise are chosen.

    Such choices are a Plackett-Luce ranking (Plackett 1975; the Gumbel-top-k form: Kool et al., ICML 2019). The score
    of expert e of layer l is

        bias[l, e] + kind[c, l, e]                              popularity, and how the request's kind c moves it
        + sum over the token's experts i of layer l - 1 of coupling[l, i, e]
        + sticky[l, j] + kind_sticky[l, c]                      if e was choice j of the token before
        + sum over m of memory[l, m] * log(prior_tokens * use[l, e] + h[m, l, e])

    with h[m, l, e] the tokens of the request so far that chose e, those n tokens ago counted DECAYS[m]^(n - 1). With
    memory[l, m] = 1 alone this is a Polya urn: what a request chose it prefers, so every request gets experts of
    its own.

    bias, use  float32 [L, E]; `use` is the mean number of choices per token, summing to k
    kind       float32 [K, L, E]
    origin     what the parameters were fitted to
    coupling   float32 [L, E, E], zero for the first layer
    prior_tokens  imagined tokens of mean use with which every request starts: the more, the broader its choices
    gate       gives weights and probabilities instead of `weights`
    sticky     float32 [L, k], may be infinite; kind_sticky float32 [L, K]; memory float32 [L, 2]
    """

    model: str
    layers: tuple[int, ...]
    bias: np.ndarray
    use: np.ndarray
    kind: np.ndarray
    coupling: np.ndarray
    sticky: np.ndarray
    kind_sticky: np.ndarray
    memory: np.ndarray
    requests: RequestModel
    prior_tokens: float = 1.0
    weights: WeightProfile | None = None
    gate: GateProfile | None = None
    native_top_k: int = 0
    expert_bytes: tuple[int, ...] | None = None
    rank_known: bool = True
    origin: str = ""

    @property
    def num_experts(self) -> int:
        return self.bias.shape[1]

    @property
    def top_k(self) -> int:
        return self.sticky.shape[1]

    def popularity_only(self) -> RoutingModel:
        """The same popularity without any structure: the plain comparison."""
        with np.errstate(divide="ignore"):
            bias = np.log(np.maximum(self.use, 1e-9))
        return dataclasses.replace(
            self,
            bias=bias.astype(np.float32),
            kind=np.zeros_like(self.kind),
            coupling=np.zeros_like(self.coupling),
            sticky=np.zeros_like(self.sticky),
            kind_sticky=np.zeros_like(self.kind_sticky),
            memory=np.zeros_like(self.memory),
        )
