"""Whatever arrives, under whatever pressure: every token once, KV cache within its room, the same in haste."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from simulator.plan import Workload
from simulator.policies.execution.cpu_in_place import CpuInPlace
from simulator.policies.execution.fetch import FetchToGpu
from simulator.policies.placement.cold import ColdStart
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.prediction.none import NoPrediction
from simulator.policies.prediction.transition import TransitionPrediction
from simulator.policies.scheduling.continuous import Continuous
from tests.helpers import EXPERT_BYTES, random_trace, run, steps_of, system, tiny_model, tiny_platform


class Case:
    """A scenario drawn from a seed: bursts or clients, short and long requests, one or two workers, room or none."""

    def __init__(self, seed, folder):
        rng = np.random.default_rng(seed)

        def pick(*options):
            return options[rng.integers(len(options))]

        layers, experts, self.top_k = pick(1, 2, 3), pick(4, 6), pick(1, 2, 3)
        count = int(rng.integers(2, 14))
        self.prompts = rng.integers(1, pick(3, 12, 30), count)
        self.decodes = rng.integers(1, pick(2, 8, 20), count)
        sizes = list(zip(self.prompts, self.decodes, strict=True))
        if pick(True, False, False):
            lines = ["arrival_s,prompt_tokens,decode_tokens,client,think_s"]
            lines += [f",{p},{d},{n % 3},{rng.exponential(1e-4)!r}" for n, (p, d) in enumerate(sizes)]
        else:
            gaps_s = rng.exponential(pick(1e-6, 3e-5, 3e-4), count) * rng.integers(0, 2, count)
            lines = ["arrival_s,prompt_tokens,decode_tokens"]
            lines += [f"{float(at)!r},{p},{d}" for at, (p, d) in zip(np.cumsum(gaps_s), sizes, strict=True)]
        path = folder / "requests.csv"
        path.write_text("\n".join(lines) + "\n")
        page = int(pick(1, 4, 16))
        longest = max(-(-(p + d) // page) * page for p, d in sizes) * layers * 128  # bytes of a token in a layer
        max_batch = int(pick(1, 2, 4, 20))
        preempt, token_budget = pick("recompute", "swap"), max(max_batch, int(pick(4, 9, 50)))
        self.shape = layers, experts, self.top_k
        self.trace = {"seed": seed, "requests": 4, "tokens": 10, "prompt": int(pick(0, 3))}
        self.workers = int(pick(1, 1, 1, 2))
        self.roles = {
            "scheduling": partial(Continuous, max_batch=max_batch, token_budget=token_budget, preempt=preempt),
            "placement": pick(PopularFirst, ColdStart),
            "prediction": pick(NoPrediction, NoPrediction, TransitionPrediction),
            "execution": pick(FetchToGpu, FetchToGpu, partial(CpuInPlace, 2)),
        }
        synthetic = not self.trace["prompt"] and pick(True, False)
        self.workload = Workload(
            file=str(path), binding=pick("cycle", "resample"), synthetic_prefill=synthetic, warmup_requests=pick(0, 1)
        )
        room = pick(layers * experts, layers * experts, max(2, self.top_k))
        self.settings = {"kv_page_tokens": page, "cache_bytes": room * EXPERT_BYTES, "seed": seed, "timeline": False}
        if pick(True, False):
            self.settings["kv_cache_bytes"] = int(longest * pick(1, 1.3, 2))

    def run(self, **settings):
        """A fresh run of it."""
        names = ("layers", "experts", "top_k")
        return run(
            tiny_model(*self.shape),
            random_trace(**self.trace, **dict(zip(names, self.shape, strict=True))),
            tiny_platform(self.workers),
            system(**self.roles),
            self.workload,
            **self.settings,
            **settings,
        )


@pytest.mark.parametrize("seed", range(40))
def test_books_balance_and_haste_changes_nothing(seed, tmp_path):
    case = Case(seed, tmp_path)
    result, slow = case.run(), case.run(stepwise=True)
    assert steps_of(result) == steps_of(slow)
    assert result.request_rows == slow.request_rows
    assert result.layers.equals(slow.layers)
    rows, pages = result.requests, result.run.batcher.pages
    assert rows.decode_tokens.tolist() == case.decodes.tolist()
    assert rows.context_tokens.tolist() == (case.prompts + case.decodes).tolist()
    assert (rows.start_s >= rows.arrival_s).all()
    assert pages.free_bytes == pages.capacity_bytes
    assert all(peak <= room for peak, room in zip(pages.peak_bytes, pages.capacity_bytes, strict=True))
    if case.trace["prompt"] or case.workload.synthetic_prefill:
        assert rows.ttft_s.notna().all()


def test_the_cases_are_not_all_easy(tmp_path):
    results = [Case(seed, tmp_path).run() for seed in range(40)]
    assert sum(result.requests.preemptions.sum() > 0 for result in results) >= 3
    assert sum(result.run.workers[0].stretches is not None for result in results) >= 10
    assert sum(result.layers.loads.sum() > 0 for result in results) >= 20
