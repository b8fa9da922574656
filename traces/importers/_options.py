"""What an importer may be told besides the file, and the refusal of requests that are not there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from traces.schema import TraceError


class MissingRequestError(TraceError):
    """A request that was asked for is not in the file."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of an import; every field may be left out.

    requests      ids to keep; None keeps all
    model, native_top_k
                  replace what the file says
    num_experts   experts per routed layer, for files that do not say it
    salvage       keep what is whole before the first fault, instead of refusing the file
    """

    requests: Sequence[int] | None = None
    model: str | None = None
    native_top_k: int | None = None
    num_experts: int | None = None
    salvage: bool = False

    def wants(self, request: int) -> bool:
        """Return whether the request with this id is to be kept."""
        return self.requests is None or request in self.requests

    def require_found(self, found: Collection[int], file: str) -> None:
        """Raise MissingRequestError if a wanted request is not among `found`."""
        for request in self.requests or ():
            if request not in found:
                raise MissingRequestError(f"{file}: request {request} is wanted but the file does not hold it.")
