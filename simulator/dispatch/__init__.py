"""How the software of an MoE layer brings rows to their experts and back: exact sizes, or padded to a capacity."""

from simulator.dispatch.base import Dispatch
from simulator.dispatch.dynamic import DynamicDispatch
from simulator.dispatch.static import StaticDispatch

__all__ = ["Dispatch", "DynamicDispatch", "StaticDispatch"]
