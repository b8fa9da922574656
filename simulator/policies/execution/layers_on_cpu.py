from simulator.policies.execution.base import ExecutionPolicy, Split
from simulator.residency import PolicyError


def first_on_worker(layers: int, cpu_layers: int | None, gpu_layers: int | None) -> int:
    """The first of `layers` routed layers whose experts lie on the worker: by how many run on the host CPU from the
    first on, or on the worker up to the last; all run on the CPU if neither is given. Raises ValueError if both are.
    """
    for name, value in (("cpu_layers", cpu_layers), ("gpu_layers", gpu_layers)):
        if value is not None and value < 0:
            raise ValueError(f"policy.execution.{name} is {value}; expected at least 0.")
    if cpu_layers is not None and gpu_layers is not None:
        raise ValueError(
            "policy.execution has cpu_layers and gpu_layers; expected at most one of them, the other null."
        )
    if gpu_layers is not None:
        return max(0, layers - gpu_layers)
    return layers if cpu_layers is None else min(layers, cpu_layers)


class LayersOnCpu(ExecutionPolicy):
    """Experts of the first layers run on the host CPU where they lie, those of the others on the worker, for good.

    llama.cpp: `--n-cpu-moe` (cpu_layers; null: all, `--cpu-moe`) or `-ngl` (gpu_layers, from the last layer on). A
    batch of more than `copy_above` tokens has the experts that it uses copied and run on the worker instead (null:
    never), as its scheduler does with operations on weights in host memory (pull request 15346).
    """

    uses_cpu = True
    always = True

    def __init__(
        self, cpu_layers: int | None = None, gpu_layers: int | None = None, copy_above: int | None = 32
    ) -> None:
        first_on_worker(1, cpu_layers, gpu_layers)
        self._cpu_layers, self._gpu_layers, self._copy_above = cpu_layers, gpu_layers, copy_above

    def bind(self, context):
        self._first = first_on_worker(context.layers, self._cpu_layers, self._gpu_layers)
        self._top_k = context.top_k

    def split(self, work):
        if work.layer >= self._first:
            if work.misses:
                raise PolicyError(
                    f"policy/execution LayersOnCpu runs layer {work.layer} on the worker, but its experts are not all"
                    f" there; expected room in the expert cache (cache_gib) for all experts of layers {self._first} to"
                    f" {work.layers - 1}."
                )
            return Split(())
        if self._copy_above is not None and sum(work.tokens.values()) > self._copy_above * self._top_k:
            return Split(work.misses)
        return Split((), work.blobs)
