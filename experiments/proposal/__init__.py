"""`moesim propose`: is a machine that does not exist worth building?

`propose` runs it and its rivals on a small stated set of workloads and writes a report: speed and energy, where time
goes, which of its parameters matter and where it breaks even, for which batches and contexts it wins, how sure that is.
"""

from experiments.proposal.study import Scope, Study, propose

__all__ = ["Scope", "Study", "propose"]
