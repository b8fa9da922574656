"""Runs pools: prompts on the replicas of one, then the transfers, then the rest on the replicas of the other; or whole
requests on the replicas of one.

Prompts never wait for decoding, so that the phases are simulated one after the other, each replica as a run of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from simulator.batching.arrivals import Arrivals
from simulator.batching.log import RequestRecord
from simulator.build import Run, build
from simulator.engine import Lane
from simulator.model import ModelError
from simulator.plan import Plan
from simulator.policies.base import component_seed
from simulator.pools.check import check_pools, check_requests, check_resident
from simulator.pools.dealing import dealt
from simulator.pools.portion import Portion
from simulator.pools.result import PooledResult, Replica, Sent
from simulator.pools.transfer import KvLinks, Piece, pieces
from simulator.result import finish
from simulator.runtime.ranks import Ranks
from simulator.runtime.shares import Shares
from simulator.scenario import Scenario, ScenarioError
from simulator.unrecorded import remarks

Progress = Callable[[int], None] | None


@dataclass
class _Arrival:
    """A request on its way into a pool. Times in ps; `group`: the attention group that it has to go to."""

    order: int
    time_ps: int
    first_ps: int = -1
    group: int = -1


def simulate_pools(scenario: Scenario, progress: Progress = None) -> PooledResult:
    """Serve a scenario's requests on its pools. Raises as `simulate`."""
    return _Serving(scenario).run(progress)


def build_pools(scenario: Scenario) -> list[Run]:
    """The first replica of each pool, built as if all requests came to it at the start: what their memories hold."""
    serving = _Serving(scenario)
    return [serving.trial(name) for name in serving.pools]


class _Serving:
    def __init__(self, scenario: Scenario) -> None:
        assert scenario.pools is not None
        self.scenario, self.dealing = scenario, scenario.pools.dealing
        check_pools(scenario, scenario.pools)
        self.plan = Plan(scenario.trace, scenario.workload, component_seed(scenario.settings.seed, "plan"))
        check_requests(self.plan, scenario.pools)
        self.pools, self.workers = scenario.pools.used, {}
        left = scenario.platform.workers
        for name, pool in self.pools.items():
            self.workers[name], left = left[: pool.gpus], left[pool.gpus :]

    def run(self, progress: Progress) -> PooledResult:
        served, first = self.plan.served, next(iter(self.pools))
        if "decode" in self.pools:
            self.trial("decode")  # what is wrong with it is said before the prompts run
        arrived = [_Arrival(order, time_ps) for time_ps, order in Arrivals(self.plan).until(1 << 62)]
        seats = dealt(self.dealing, [served[a.order].prompt_tokens for a in arrived], self.pools[first].replicas)
        replicas = self._replicas(first, arrived, seats, progress)
        sent: list[Sent] = []
        lanes: list[Lane] = []
        if "decode" in self.pools:
            ended = [(one, record) for one in replicas for record in one.log if served[record.order].decode_tokens]
            sent, lanes = self._send(sorted(ended, key=lambda both: (both[1].end_ps, both[1].order)))
            arrived = [_Arrival(one.order, one.landed_ps, one.first_ps, one.group) for one in sent]
            replicas += self._replicas("decode", arrived, [one.receiver for one in sent], progress)
        said = [remark for replica in replicas for remark in replica.result.run.remarks]
        said = list(dict.fromkeys([*remarks(self.plan, False), *said]))
        whole = replace(replicas[0].result.run, scenario=self.scenario, plan=self.plan, remarks=said)
        result = PooledResult(run=whole, replicas=replicas, sent=sent, lanes=lanes)
        result.check()
        return result

    def _send(self, prompts: Sequence[tuple[Replica, RequestRecord]]) -> tuple[list[Sent], list[Lane]]:
        """Deal requests whose prompts are done, in that order, and send each one's KV cache."""
        decode, own, prompting = self.pools["decode"], self._ranks("decode"), self._ranks("prefill")
        seats = [(replica, group) for group in range(own.groups) for replica in range(decode.replicas)]
        chosen = dealt(self.dealing, [record.context_tokens for _, record in prompts], len(seats))
        links = KvLinks(self.scenario.platform, self.scenario.settings.pinned)
        model, made = self.scenario.model, []
        holding, wanting = Shares(model, prompting), Shares(model, own)
        for (replica, record), seat in zip(prompts, chosen, strict=True):
            receiver, group = seats[seat]
            parts: list[Piece] = []
            for src, dst in product(range(prompting.stages), range(own.stages)):
                layers = sorted({*holding.layers(src)} & {*wanting.layers(dst)})
                senders = _gpus(prompting, self._workers("prefill", replica.number), src, record.worker)
                receivers = _gpus(own, self._workers("decode", receiver), dst, group)
                parts += pieces(senders, receivers, wanting.part.kv_bytes(record.context_tokens, layers))
            made.append(parts)
        landed = links.land([(record.end_ps, parts) for (_, record), parts in zip(prompts, made, strict=True)])
        sent = []
        for (replica, record), seat, parts, landed_ps in zip(prompts, chosen, made, landed, strict=True):
            size = sum(size_bytes for _, _, size_bytes in parts)
            sent.append(Sent(record.order, replica.number, *seats[seat], size, record.end_ps, landed_ps))
        return sent, links.lanes

    def _ranks(self, pool: str) -> Ranks:
        """The simulated workers of a pool's first replica."""
        platform = replace(self.scenario.platform, workers=self._workers(pool, 0))
        return Ranks.of(self.pools[pool].layout, platform, self.scenario.model.experts)

    def _workers(self, pool: str, replica: int) -> tuple[str, ...]:
        size = self.pools[pool].layout.gpus or 0
        return self.workers[pool][replica * size :][:size]

    def _replicas(
        self, pool: str, arrived: Sequence[_Arrival], seats: Sequence[int], progress: Progress
    ) -> list[Replica]:
        """Run the replicas of a pool that were dealt requests."""
        found = []
        for number in range(self.pools[pool].replicas):
            mine = [one for one, seat in zip(arrived, seats, strict=True) if seat == number]
            if mine:
                found.append(Replica(pool, number, finish(self.build(pool, number, mine, progress))))
        return found

    def trial(self, pool: str) -> Run:
        """The first replica of a pool, as if all requests came to it."""
        return self.build(pool, 0, [_Arrival(order, 0, 0, 0) for order in range(len(self.plan.served))])

    def build(self, pool: str, replica: int, arrived: Sequence[_Arrival], progress: Progress = None) -> Run:
        """A replica that serves these requests. Raises as `build`, with the name of the pool before the sentence."""
        whole, chosen = self.scenario, self.pools[pool]
        mine = sorted(arrived, key=lambda one: one.order)
        orders = np.array([one.order for one in mine])
        portion = Portion(
            pool=pool,
            orders=tuple(orders.tolist()),
            arrivals_ps=tuple(one.time_ps for one in mine),
            first_ps=tuple(one.first_ps for one in mine),
            groups=tuple(one.group for one in mine),
        )
        warm = int((orders < whole.workload.warmup_requests).sum())
        made = replace(
            whole,
            platform=replace(whole.platform, workers=self._workers(pool, replica)),
            system=replace(whole.system, scheduling=chosen.scheduling or whole.system.scheduling),
            workload=replace(whole.workload, warmup_requests=warm),
            layout=chosen.layout,
            pools=None,
            portion=portion,
        )
        try:
            run = build(made, progress)
        except (ScenarioError, ModelError) as error:
            raise type(error)(f"pools.{pool}: {error}") from None
        check_resident(run, pool)
        return run


def _gpus(ranks: Ranks, workers: Sequence[str], stage: int, group: int) -> Sequence[str]:
    """The GPUs of a stage that hold the KV cache of an attention group."""
    assert ranks.layout is not None
    return workers[stage * ranks.layout.gpus + group * ranks.layout.tp :][: ranks.layout.tp]
