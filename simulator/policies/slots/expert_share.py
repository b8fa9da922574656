from simulator.policies.slots.base import SlotsPolicy


class ExpertShare(SlotsPolicy):
    """One budget with room for a share of all experts and `spare` more to copy others to, however much memory there is.

    What DAOP (arXiv 2501.10375) calls its expert cache ratio; see `placement=popular_share`.
    """

    def __init__(self, share: float = 0.5, spare: int = 1) -> None:
        if not 0 <= share <= 1 or spare < 0 or (share == 0 and spare == 0):
            raise ValueError(
                f"policy.slots.share is {share} and spare {spare}; expected from 0 to 1, at least 0, not both 0."
            )
        self._share, self._spare = share, spare

    def bind(self, context):
        self._experts = context.experts

    def budgets(self, budget_bytes, layer_expert_bytes, top_k):
        held = round(self._share * len(layer_expert_bytes) * self._experts) + self._spare
        return [min(budget_bytes, held * max(layer_expert_bytes))]
