"""What runs and sweeps left behind, as tidy frames: load, pair, compare with intervals, find what is not dominated.

`load`, `requests` and `draws` read folders; `paired` puts points beside a baseline; `compare` does so with intervals
from resampled requests, `compare_calibrated` with intervals from drawn constants; `pareto` keeps what no other point
beats; `align` and `agreement` hold a run against measured times.
"""

from experiments.results.calibrated import compare_calibrated
from experiments.results.comparison import compare
from experiments.results.frames import draws, load, requests
from experiments.results.front import pareto
from experiments.results.measured import agreement, align
from experiments.results.notes import LeftOutWarning, NoiseWarning
from experiments.results.pairing import paired

__all__ = [
    "LeftOutWarning",
    "NoiseWarning",
    "agreement",
    "align",
    "compare",
    "compare_calibrated",
    "draws",
    "load",
    "paired",
    "pareto",
    "requests",
]
