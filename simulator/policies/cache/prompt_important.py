from simulator.policies.cache.prompt_hottest import PromptHottest
from simulator.policies.prompt_importance import check_alpha, prompt_importance


class PromptImportant(PromptHottest):
    """As prompt_hottest, by importance to the prompt: a mix of how often chosen and of gate weight.

    Context-aware GPU-NDP (arXiv 2512.04476): alpha x share of choices + (1 - alpha) x share of gate weight.
    """

    uses = ("weights",)

    def __init__(self, alpha: float = 0.5) -> None:
        super().__init__(swap=1.0)
        check_alpha(alpha, "cache")
        self._alpha = alpha

    def importance(self, view):
        ids, weights = view.routing.ids(view.layer), view.routing.weights(view.layer)
        return prompt_importance(ids, weights, self._experts, self._alpha)
