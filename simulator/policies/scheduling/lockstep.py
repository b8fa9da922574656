from simulator.policies.scheduling.base import SchedulingPolicy


class Lockstep(SchedulingPolicy):
    """Batches of `workload.batch_size` requests in order, each run to its end; arrival times play no part."""

    lockstep = True
