from simulator.policies.execution.near import NearExecution


class NearByTokens(NearExecution):
    """Experts of at most `at_most` tokens run near memory, whose bandwidth binds them; the others on the worker."""

    def __init__(self, at_most: int = 4, unit: str | None = None) -> None:
        super().__init__(unit)
        if at_most < 0:
            raise ValueError(f"policy.execution.at_most is {at_most}; expected at least 0.")
        self._at_most = at_most

    def count(self, work, unit, order):
        return sum(work.tokens[blob] > self._at_most for blob in order)
