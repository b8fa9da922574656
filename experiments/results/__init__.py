"""What runs and sweeps left behind, as tidy frames: load, pair, compare with intervals, find what is not dominated.

`load` and `requests` read folders; `paired` puts points beside a baseline; `compare` does so with intervals from
resampled requests; `pareto` keeps what no other point beats; `align` and `agreement` hold a run against measured times.
"""

from experiments.results.comparison import compare
from experiments.results.frames import load, requests
from experiments.results.front import pareto
from experiments.results.measured import agreement, align
from experiments.results.notes import LeftOutWarning, NoiseWarning
from experiments.results.pairing import paired

__all__ = ["LeftOutWarning", "NoiseWarning", "agreement", "align", "compare", "load", "paired", "pareto", "requests"]
