from simulator.policies.attention.base import AttentionPolicy


class OnWorker(AttentionPolicy):
    """All dense parts run on the worker, whose memory holds them and the KV cache."""
