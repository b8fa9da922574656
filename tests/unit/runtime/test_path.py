"""The critical path by hand."""

from __future__ import annotations

from simulator.engine import Lane, Transfer
from simulator.runtime.path import Path


def landed(category: str, submitted_ps: int, landed_ps: int, cause: Transfer | None = None) -> Transfer:
    transfer = Transfer(0, 1, True)
    transfer.lane = Lane(category, [], category=category)
    transfer.submitted_ps, transfer.landed_ps, transfer.cause = submitted_ps, landed_ps, cause
    return transfer


def begun(start_ps: int) -> Path:
    path = Path()
    path.begin(start_ps)
    return path


def test_work_alone_is_split_into_launches_memory_and_compute():
    path = begun(100)
    path.add(160, (10, 50, 0))
    path.add(200, (5, 0, 35))
    assert path.totals() == {"overhead": 15, "hbm": 50, "compute": 35}


def test_a_wait_goes_back_to_the_submission_and_drops_what_the_lane_did_meanwhile():
    path = begun(0)
    path.add(40, (0, 40, 0))  # until the load is asked for
    path.add(70, (0, 0, 30))  # beside the load
    path.waited_for(landed("pcie", 40, 100))
    assert path.totals() == {"hbm": 40, "pcie": 60}


def test_a_submission_in_the_middle_of_a_task_cuts_it_there():
    path = begun(0)
    path.add(50, (10, 40, 0))
    path.waited_for(landed("pcie", 30, 90))
    assert path.totals() == {"overhead": 10, "hbm": 20, "pcie": 60}  # launch first, then 20 of its memory time


def test_a_wait_for_what_was_submitted_before_the_step_belongs_to_the_lane_from_the_steps_start():
    path = begun(1_000)
    path.add(1_010, (0, 10, 0))
    path.waited_for(landed("pcie", 400, 1_100))
    assert path.totals() == {"pcie": 100}


def test_two_hops_are_told_apart():
    path = begun(0)
    path.add(10, (0, 10, 0))
    read = landed("ssd", 10, 60)
    path.waited_for(landed("pcie", 60, 85, cause=read))
    assert path.totals() == {"hbm": 10, "ssd": 50, "pcie": 25}


def test_two_waits_in_a_row_belong_to_their_lanes():
    path = begun(0)
    path.add(10, (0, 10, 0))
    path.waited_for(landed("pcie", 10, 50))
    path.add(60, (0, 10, 0))
    path.waited_for(landed("pcie", 10, 90))  # queued behind the first: the same lane all the while
    assert path.totals() == {"hbm": 10, "pcie": 80}


def test_the_path_of_the_worker_that_came_last_is_taken_over():
    mine, other = begun(0), begun(0)
    mine.add(20, (0, 0, 20))
    other.add(50, (0, 50, 0))
    mine.copy_from(other.snapshot())
    mine.add(55, "all_to_all")
    assert mine.totals() == {"hbm": 50, "all_to_all": 5}
    assert other.totals() == {"hbm": 50}
