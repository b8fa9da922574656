"""Capture of routing traces from Hugging Face models: hooks on routers and experts while `generate` runs.

Needs torch and transformers (``pip install 'moesim[capture]'``); nothing else of the package imports this folder.
"""

from __future__ import annotations

from traces.schema import TraceError


class CaptureError(TraceError):
    """A capture that cannot be done as asked; the message is one sentence."""
