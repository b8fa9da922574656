"""Metrics of claims about speculative decoding, from steps that were simulated one by one."""

from __future__ import annotations

from typing import Any


def tokens_per_round(drafts: int, acceptance: float) -> float:
    """Tokens that a round of `drafts` drafted tokens and one pass that checks them yields on average, if each is
    accepted with probability `acceptance`, independently (Leviathan, Kalman and Matias, ICML 2023, equation 1).

    >>> tokens_per_round(3, 0.0), tokens_per_round(3, 1.0), tokens_per_round(1, 0.5)
    (1.0, 4.0, 1.5)
    """
    return float(sum(acceptance**place for place in range(drafts + 1)))


def speed_up(runs: dict[str, Any], drafts: int, acceptance: float) -> float:
    """Tokens per second of rounds over those of plain decoding. Runs `plain` and `draft` decode a batch, a token of
    each request in a step; `check` decodes one that is 1 + drafts times as large, which stands for a pass over drafted
    tokens: as its tokens are of other requests, they share fewer experts than those of one would."""
    step_s = {name: run.summary["tpot_mean_s"] for name, run in runs.items()}
    round_s = drafts * step_s["draft"] + step_s["check"]
    return tokens_per_round(drafts, acceptance) * step_s["plain"] / round_s
