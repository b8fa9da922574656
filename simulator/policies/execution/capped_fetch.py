from simulator.policies.execution.base import ExecutionPolicy, Split


class CappedFetch(ExecutionPolicy):
    """At most `most` missing experts of a layer are fetched, and so enter the cache; the others run on the host CPU.

    The expert cache of llama.cpp (pull request 27861, `--moe-expert-cache-inserts`): a token pays for few uploads, as
    the CPU runs the rest where it lies. Those that serve most tokens are fetched. A batch of more than `copy_above`
    tokens has all its missing experts copied (null: never).
    """

    uses_cpu = True

    def __init__(self, most: int = 2, copy_above: int | None = 32) -> None:
        if most < 0:
            raise ValueError(f"policy.execution.most is {most}; expected at least 0.")
        self._most, self._copy_above = most, copy_above

    def bind(self, context):
        self._top_k = context.top_k

    def split(self, work):
        if self._copy_above is not None and sum(work.tokens.values()) > self._copy_above * self._top_k:
            return Split(work.misses)
        wanted = sorted(work.misses, key=lambda blob: -work.tokens[blob])
        return Split(wanted[: self._most], wanted[self._most :])
