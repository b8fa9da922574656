"""Records by column: what comes out equals what went in, in a fraction of the memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from simulator.runtime.record_log import RecordError, RecordLog
from simulator.runtime.worker import StepRecord


@dataclass
class Odd:
    name: str


def record(number: int, **waited_ps: int) -> StepRecord:
    contexts = list(range(number % 3 + 1))
    return StepRecord(number, 0, number % 2 == 0, 1, [5] * len(contexts), contexts, 1000 * number, waited_ps=waited_ps)


def logged(records: list[StepRecord]) -> RecordLog[StepRecord]:
    log = RecordLog(StepRecord)
    for each in records:
        log.append(each)
    return log


def test_records_come_out_as_they_went_in_whatever_names_they_have():
    records = [record(0), record(1, pcie=3), record(2, hbm=0, pcie=4), record(3)]
    log = logged(records)
    assert list(log) == records
    assert (len(log), log[-1], log[1:3]) == (4, records[3], records[1:3])
    with pytest.raises(IndexError):
        log[4]


def test_columns_lengths_sums_and_mappings_are_those_of_all_records():
    log = logged([record(0), record(1, pcie=3), record(2, hbm=0, pcie=4)])
    assert log.column("start_ps").tolist() == [0, 1000, 2000]
    assert log.column("prefill").tolist() == [True, False, True]
    assert log.lengths("kv_tokens").tolist() == [1, 2, 3]
    assert log.sums("kv_tokens").tolist() == [0, 1, 3]  # 0; 0 + 1; 0 + 1 + 2
    waited_ps = log.mapping("waited_ps")
    assert list(waited_ps) == ["hbm", "pcie"]
    values, there = waited_ps["pcie"]
    assert values.tolist() == [0, 3, 4]
    assert there.tolist() == [False, True, True]
    assert waited_ps["hbm"][1].tolist() == [False, False, True]  # recorded, though it was 0


def test_counts_of_another_worker_are_added_step_by_step():
    mine, other = logged([record(0), record(1)]), RecordLog(StepRecord)
    for hits in (2, 3):
        other.append(StepRecord(0, 0, False, 1, [0], [1], 0, hits=hits))
    mine.add(other, ["hits"])
    mine.add(other, ["hits"])
    assert mine.column("hits").tolist() == [4, 6]
    assert mine.column("start_ps").tolist() == [0, 1000]


def test_numbers_and_items_of_lists_may_outgrow_32_bits():
    records = [record(0), StepRecord(1 << 40, 0, False, 1, [1, 1 << 50], [3], 1 << 33), record(2)]
    log = logged(records)
    assert list(log) == records
    assert log.column("number").tolist() == [0, 1 << 40, 2]


def test_a_number_beyond_64_bits_is_refused_in_a_sentence():
    with pytest.raises(RecordError, match="106 days"):
        logged([StepRecord(0, 0, False, 1, [0], [1], 1 << 63)])


def test_fields_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="name of Odd"):
        RecordLog(Odd)


def test_a_record_takes_less_than_half_of_what_objects_take():
    def step(number: int) -> StepRecord:
        time_ps = 10**12 * number
        return StepRecord(
            number, number, False, 1, [number], [number], time_ps, time_ps + 1, waited_ps={"pcie": time_ps + 2}
        )

    def allocated(make: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            kept = make()
            gc.collect()  # what other tests left behind
            return tracemalloc.get_traced_memory()[0] * (kept is not None)
        finally:
            tracemalloc.stop()

    numbers = np.arange(1000, 4000).tolist()
    by_column = allocated(lambda: logged([step(number) for number in numbers]))
    assert by_column < 1 / 2 * allocated(lambda: [step(number) for number in numbers])
