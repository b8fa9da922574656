"""How far the fitted kernel models are from measurements: the page docs/fidelity.md and its figures."""

from experiments.fidelity.page import page, write_page
from experiments.fidelity.points import points

__all__ = ["page", "points", "write_page"]
