from simulator.policies.pipeline.plain import PlainPipeline


class TokenWindows(PlainPipeline):
    """Weights are read for every `window` tokens anew, and for every `queue` tokens of an expert: 1 is token by token.

    The loop orders of accelerators without room for a layer's experts (M3ViT, arXiv 2210.14793, and Edge-MoE, arXiv
    2305.18691, against token by token; the out-of-order router of Space-Mate, ISSCC 2024). Null: no bound; both null is
    expert by expert, as `plain`.
    """

    def __init__(self, window: int | None = 1, queue: int | None = None) -> None:
        for name, value in (("window", window), ("queue", queue)):
            if value is not None and value < 1:
                raise ValueError(f"policy.pipeline.{name} is {value}; expected at least 1, or null for no bound.")
        self.window, self.queue = window, queue
