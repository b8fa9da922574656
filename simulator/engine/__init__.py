"""What happens over time: one SimPy clock, and the passive machinery that processes touch.

Engine time is an integer number of picoseconds. `clock` decides when a process may act,
`fabric` moves bytes over lanes and shared media, `sharing` divides bandwidth.
"""

from simulator.engine.clock import PS_PER_S, Clock, Stream, seconds, to_ps
from simulator.engine.fabric import ACTIVE, CANCELLED, LANDED, NEVER, Fabric, Lane, Medium, Transfer

__all__ = [
    "ACTIVE",
    "CANCELLED",
    "LANDED",
    "NEVER",
    "PS_PER_S",
    "Clock",
    "Fabric",
    "Lane",
    "Medium",
    "Stream",
    "Transfer",
    "seconds",
    "to_ps",
]
