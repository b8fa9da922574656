from simulator.policies.precision.by_gate_score import ByGateScore


class ReadByScore(ByGateScore):
    """Of experts that matter little to their tokens, only some bits of each weight are read (A3D-MoE).

    Score-aware access of A3D-MoE (arXiv 2507.19142), of which only the abstract is known: which scores are low, and how
    many bits are read of their experts, are assumed. How little an expert matters is measured as in `by_gate_score`: by
    the share of its token's gate weight before it; above `high_below`, `low_bits` of each weight are read. All experts
    are kept and loaded whole.
    """

    nested = True

    def __init__(self, low_bits: float = 8.0, high_below: float = 0.6) -> None:
        super().__init__(low_bits, high_below, low_below=1.0, low_share=0.5)  # none is skipped
        self.shares = None  # there is one copy
