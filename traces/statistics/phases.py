"""Prefill against decode, in traces that have both."""

from __future__ import annotations

from typing import Any

import numpy as np

from traces.schema import DECODE, PREFILL, RequestTrace, TraceMeta
from traces.statistics.counting import expert_counts, ratio, shared_mass
from traces.statistics.load import variation
from traces.statistics.overlap import chance_overlap, common, pairs_at

NAMES = ("prefill", "decode")


class Phases:
    """Tokens, load, and overlap of consecutive tokens by phase, and how alike the phases load the experts.

    The control of the overlap shuffles the tokens of a request within its phase, that of the similarity deals the
    tokens of each request to the phases at random, as many to each. Nothing unless both phases are there.
    """

    def __init__(self, meta: TraceMeta) -> None:
        shape = (2, len(meta.layers))
        self._tokens = np.zeros(2, dtype=np.int64)
        self._counts = np.zeros((*shape, meta.num_experts), dtype=np.int64)
        self._dealt = np.zeros((*shape, meta.num_experts), dtype=np.int64)
        self._overlap = np.zeros((3, *shape))  # shared, shared by chance, asked

    def add(self, request: RequestTrace, order: np.ndarray) -> None:
        num_experts = self._counts.shape[2]
        start = 0
        for phase, code in enumerate((PREFILL, DECODE)):
            where = request.phases == code
            experts, positions = request.experts[where], request.positions[where]
            counts = expert_counts(experts, num_experts)
            self._tokens[phase] += len(experts)
            self._counts[phase] += counts
            self._dealt[phase] += expert_counts(request.experts[order[start : start + len(experts)]], num_experts)
            start += len(experts)
            if len(experts) > 1:
                near = pairs_at(positions, 1)
                shared, asked = common(experts[:-1][near], experts[1:][near])
                chance = np.nan_to_num(chance_overlap(counts, (experts >= 0).any(axis=2).sum(axis=0)))
                self._overlap[:, phase] += [shared, chance * asked, asked]

    def result(self) -> dict[str, Any]:
        if not self._tokens.all():
            return {"phases": None, "phase_similarity": None, "phase_similarity_shuffle": None}
        shared, by_chance, asked = self._overlap.sum(axis=2)
        overlap, shuffled = ratio(shared, asked), ratio(by_chance, asked)
        loads = [np.nanmean(variation(counts)) for counts in self._counts]
        phases = {
            name: {
                "tokens": int(self._tokens[phase]),
                "load_cv": float(loads[phase]),
                "consecutive_overlap": float(overlap[phase]),
                "consecutive_overlap_within_request_shuffle": float(shuffled[phase]),
            }
            for phase, name in enumerate(NAMES)
        }
        return {
            "phases": phases,
            "phase_similarity": float(shared_mass(*self._counts)),
            "phase_similarity_shuffle": float(shared_mass(*self._dealt)),
        }
