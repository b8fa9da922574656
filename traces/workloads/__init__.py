"""Workloads: when requests arrive, how long they are, which request of a trace each follows.

A *request list* (`RequestList`) has one row per request. It is read from a table (CSV, Parquet) or made from a
specification of composable pieces: arrivals, lengths, a mix of tasks, tenants.
"""

from traces.workloads.files import open_requests, read_requests, write_requests
from traces.workloads.recorded import SOURCES, read_recorded
from traces.workloads.requests import RequestList, WorkloadError
from traces.workloads.spec import make_requests
from traces.workloads.summary import summarise_requests

__all__ = [
    "SOURCES",
    "RequestList",
    "WorkloadError",
    "make_requests",
    "open_requests",
    "read_recorded",
    "read_requests",
    "summarise_requests",
    "write_requests",
]
