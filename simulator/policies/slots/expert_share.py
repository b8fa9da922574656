from simulator.policies.slots.base import SlotsPolicy


class ExpertShare(SlotsPolicy):
    """One budget with room for a share of all experts and `spare` more to copy others to, however much memory there is.

    What DAOP (arXiv 2501.10375) calls its expert cache ratio; see `placement=popular_share`. per_layer: a budget for
    each layer instead, with room for that share of its experts and `spare` more.
    """

    def __init__(self, share: float = 0.5, spare: int = 1, per_layer: bool = False) -> None:
        if not 0 <= share <= 1 or spare < 0 or (share == 0 and spare == 0):
            raise ValueError(
                f"policy.slots.share is {share} and spare {spare}; expected from 0 to 1, at least 0, not both 0."
            )
        self._share, self._spare, self._per_layer = share, spare, per_layer

    def bind(self, context):
        self._experts = context.experts

    def budgets(self, budget_bytes, layer_expert_bytes, top_k):
        if self._per_layer:
            held = round(self._share * self._experts) + self._spare
            return [min(budget_bytes // len(layer_expert_bytes), held * size) for size in layer_expert_bytes]
        held = round(self._share * len(layer_expert_bytes) * self._experts) + self._spare
        return [min(budget_bytes, held * max(layer_expert_bytes))]
