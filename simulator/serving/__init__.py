"""A serving engine under steady load: what a step costs on one GPU of a layout, and what TTFT and TPOT follow."""

from simulator.layout import Layout
from simulator.serving.load import Answer, Framework, Load, RequestCost, answer
from simulator.serving.precision import Precision, precision_of
from simulator.serving.step_cost import StepCost

__all__ = [
    "Answer",
    "Framework",
    "Layout",
    "Load",
    "Precision",
    "RequestCost",
    "StepCost",
    "answer",
    "precision_of",
]
