"""Sweeps: many runs, composed once, on all cores, resumable. See docs/sweeps.md."""

from __future__ import annotations

from experiments.sweep.sweep import Report, sweep

__all__ = ["Report", "sweep"]
