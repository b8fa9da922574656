"""Files with statistics of routing are no traces: the import says what they are, and a reader gives their numbers."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from traces import TraceError
from traces.importers import import_trace
from traces.importers.aggregates import Aggregates, read_aggregates

EXTRA_DATA = os.environ.get("MOESIM_EXTRA_DATA")
COUNTS = [[3, 0, 1], [2, 2, 0]]


class LongStorage:
    """Stands for torch.LongStorage."""


def torch_file(path: Path, content: dict) -> Path:
    """Write what torch.save would of a dictionary with int64 arrays as tensors, as PyTorch's notes describe it."""
    storages: list[bytes] = []
    module, torch = types.ModuleType("torch._utils"), types.ModuleType("torch")

    def _rebuild_tensor_v2(*arguments: object) -> None:
        raise AssertionError("only the reader under test builds tensors")

    class Storage:
        def __init__(self, array: np.ndarray) -> None:
            self.size = array.size
            storages.append(np.ascontiguousarray(array, dtype="<i8").tobytes())
            self.key = str(len(storages) - 1)

    class Tensor:
        def __init__(self, array: np.ndarray) -> None:
            strides = tuple(stride // array.itemsize for stride in array.strides)
            hooks = collections.OrderedDict()  # type: ignore[var-annotated]
            self.arguments = (Storage(array), 0, array.shape, strides, False, hooks)

        def __reduce__(self) -> tuple:
            return _rebuild_tensor_v2, self.arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: object) -> tuple | None:
            return ("storage", LongStorage, item.key, "cuda:0", item.size) if isinstance(item, Storage) else None

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    LongStorage.__module__ = "torch"
    module._rebuild_tensor_v2, torch.LongStorage = _rebuild_tensor_v2, LongStorage  # type: ignore[attr-defined]
    buffer = io.BytesIO()

    def tensors(value: object) -> object:
        if isinstance(value, np.ndarray):
            return Tensor(value)
        if isinstance(value, dict):
            return {key: tensors(item) for key, item in value.items()}
        return [tensors(item) for item in value] if isinstance(value, list) else value

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", module)
        Pickler(buffer, protocol=2).dump(tensors(content))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        for key, raw in enumerate(storages):
            archive.writestr(f"archive/data/{key}", raw)
        archive.writestr("archive/version", "3\n")
    return path


def sglang_stat(folder: Path) -> Path:
    """SGLang's mode `stat`: logical_count [steps, layers, experts]; layer 1 is dense."""
    count = np.array([[COUNTS[0], [0, 0, 0], [1, 1, 0]], [[0, 0, 0], [0, 0, 0], [1, 1, 0]]])
    return torch_file(
        folder / "x.pt", {"rank": 0, "logical_count": count, "average_utilization_rate_over_window": None}
    )


def sglang_detail(folder: Path) -> Path:
    """SGLang's mode `per_pass`: physical experts, of which expert 0 has two replicas."""
    first, second = np.array([[1, 0, 1, 2], [1, 2, 0, 1]]), np.zeros((2, 4), dtype=np.int64)
    records = [
        {"forward_pass_id": number, "global_physical_count": count} for number, count in enumerate((first, second))
    ]
    mapping = np.array([[0, 1, 2, 0], [0, 1, 2, 0]])
    return torch_file(folder / "x.pt", {"records": records, "last_physical_to_logical_map": mapping})


def sglang_json(folder: Path) -> Path:
    (folder / "x.json").write_text(json.dumps({"logical_count": COUNTS}))
    return folder / "x.json"


def domain_counts(folder: Path) -> Path:
    by_domain = {"law": {"0": COUNTS[0], "7": COUNTS[1]}, "code": {"0": COUNTS[1], "7": COUNTS[0]}}
    (folder / "x.json").write_text(
        json.dumps({"toy": {"expert_counts": by_domain}, "other": {"expert_counts": by_domain}})
    )
    return folder / "x.json"


def coactivation(folder: Path) -> Path:
    layers = [{"layer": layer, "heat": heat, "pairs": []} for layer, heat in enumerate(COUNTS)]
    (folder / "x.json").write_text(json.dumps({"model": "toy", "n_expert_per_layer": 3, "k": 2, "layers": layers}))
    return folder / "x.json"


def locality(folder: Path) -> Path:
    reports = {str(layer): {"frequency": {"2": 5, "0": layer + 1}} for layer in range(2)}
    (folder / "x.json").write_text(json.dumps({"all_workloads": reports, "by_family": {"mmlu": reports}}))
    return folder / "x.json"


def fractions(folder: Path) -> Path:
    rows = [(subject, layer, expert) for subject in ("law", "art") for layer in (0, 1) for expert in (0, 1)]
    columns = dict(zip(("subject", "layer", "expert"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns | {"mean_fraction": [0.25, 0.75] * 4}), folder / "x.parquet")
    return folder / "x.parquet"


def popularity(folder: Path) -> Path:
    (folder / "x.csv").write_text("rank,layer,expert\n0,1,0\n1,0,1\n2,0,0\n3,1,1\n")
    return folder / "x.csv"


def results(folder: Path) -> Path:
    (folder / "x.csv").write_text("condition,permutation_seed,best_causal_policy\noriginal,,lfru\n")
    return folder / "x.csv"


READABLE = [sglang_stat, sglang_detail, sglang_json, domain_counts, coactivation, locality, fractions, popularity]


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (sglang_stat, "counts of SGLang's expert distribution recorder, how often each expert was selected in"),
        (sglang_detail, "counts of SGLang's expert distribution recorder, how often each expert was selected in"),
        (sglang_json, "counts of SGLang's expert distribution recorder, how often each expert was selected in"),
        (domain_counts, "counts of how often each expert was selected, by model, domain and layer"),
        (coactivation, "a co-activation profile, how often each expert and pair of experts was selected"),
        (locality, "a report on routing locality, with frequencies and reuse distances by layer"),
        (fractions, "a table of experts' shares of the selections, by subject and layer"),
        (popularity, "a ranking of all experts of all layers by popularity, without counts"),
        (results, "a table of results (misses, times or sizes by policy or run), which holds no routing"),
    ],
)
def test_the_import_says_what_the_file_is(tmp_path, build, what) -> None:
    path = build(tmp_path)
    with pytest.raises(TraceError) as caught:
        import_trace(path, tmp_path / "out.parquet")
    assert str(caught.value).startswith(f"{path.name}: the file is no trace but {what}")
    assert not (tmp_path / "out.parquet").exists()


def check(found: Aggregates, layers: tuple[int, ...], tasks: tuple, values: object) -> None:
    assert (found.layers, found.tasks) == (layers, tasks)
    assert found.values.tolist() == values


def test_steps_of_sglang_add_up_and_layers_without_experts_are_left_out(tmp_path) -> None:
    check(read_aggregates(sglang_stat(tmp_path)), (0, 2), (None,), [COUNTS])  # layer 2: 1 + 1, 1 + 1, 0


def test_replicas_of_sglang_add_up(tmp_path) -> None:
    # layer 0: expert 0 has 1 + 2, expert 1 none, expert 2 one; layer 1: 1 + 1, 2, 0
    check(read_aggregates(sglang_detail(tmp_path)), (0, 1), (None,), [COUNTS])


def test_json_lists_of_sglang(tmp_path) -> None:
    check(read_aggregates(sglang_json(tmp_path)), (0, 1), (None,), [COUNTS])


def test_counts_by_domain_are_of_one_model(tmp_path) -> None:
    path = domain_counts(tmp_path)
    check(read_aggregates(path, model="toy"), (0, 7), ("law", "code"), [COUNTS, COUNTS[::-1]])
    with pytest.raises(TraceError, match="statistics of toy, other; one of these models is needed"):
        read_aggregates(path)


def test_counts_of_coactivation_and_locality(tmp_path) -> None:
    found = read_aggregates(coactivation(tmp_path))
    check(found, (0, 1), (None,), [COUNTS])
    assert (found.model, found.top_k, found.num_experts) == ("toy", 2, 3)
    check(read_aggregates(locality(tmp_path)), (0, 1), ("mmlu",), [[[1, 0, 5], [2, 0, 5]]])


def test_shares_come_from_selections_or_are_given_but_not_from_ranks(tmp_path) -> None:
    assert read_aggregates(sglang_json(tmp_path)).shares().tolist() == [[[0.75, 0, 0.25], [0.5, 0.5, 0]]]
    found = read_aggregates(fractions(tmp_path))
    check(found, (0, 1), ("art", "law"), [[[0.25, 0.75]] * 2] * 2)
    ranks = read_aggregates(popularity(tmp_path))
    check(ranks, (0, 1), (None,), [[[2, 1], [0, 3]]])
    with pytest.raises(TraceError, match="only the order of the experts is known"):
        ranks.shares()


@pytest.mark.parametrize("build", READABLE)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_cut_file_is_refused_in_one_sentence(tmp_path, build, share) -> None:
    path = build(tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(TraceError, match=r"^x\.\w+: .*\.$"):
        read_aggregates(path)


@pytest.mark.parametrize(
    ("build", "old", "new"),
    [
        (sglang_json, "[3, 0, 1]", "[3, -1, 1]"),
        (sglang_json, "[3, 0, 1]", "[3, 0]"),
        (domain_counts, "[3, 0, 1]", "[3, NaN, 1]"),
        (domain_counts, '"7"', '"seven"'),
        (coactivation, "[3, 0, 1]", '[3, 0, "1"]'),
        (coactivation, '"layer": 1', '"layer": 0'),
        (locality, '"frequency"', '"Frequency"'),
        (popularity, "3,1,1", "2,1,1"),
        (popularity, "3,1,1", "3,1,x"),
    ],
)
def test_a_fault_is_refused_in_one_sentence(tmp_path, build, old, new) -> None:
    path = build(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(TraceError, match=r"^x\.\w+: .*\.$"):
        read_aggregates(path, model="toy")


def test_a_torch_file_runs_nothing(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"logical_count": os.getcwd}))
    with pytest.raises(TraceError, match=r"^x\.pt: the file holds '\w+.getcwd', which is not read"):
        read_aggregates(tmp_path / "x.pt")


@pytest.mark.skipif(EXTRA_DATA is None, reason="needs MOESIM_EXTRA_DATA")
def test_published_statistics_add_up_to_their_tokens() -> None:
    folder = Path(EXTRA_DATA or "") / "traces/aggregates"
    qwen = read_aggregates(folder / "mbolt/coactivation_qwen3-30b-a3b.json")
    assert qwen.values.shape == (1, 48, 128)
    assert qwen.values.sum(axis=-1).tolist() == [[75773 * 8] * 48]  # decode tokens times experts per token
    gemma = read_aggregates(folder / "expertflow_gemma4/routing-locality.json")
    assert gemma.values.sum(axis=(0, 2)).tolist() == [21858 * 8] * 30
    olmoe = read_aggregates(folder / "olmoe_mixtral_domains/routing_output.json", model="olmoe")
    assert (olmoe.layers, len(olmoe.tasks), olmoe.num_experts) == ((0, 7, 15), 6, 64)
    assert read_aggregates(folder / "mixtral_mmlu_fractions/by_subject.parquet").values.shape == (57, 32, 8)
    assert read_aggregates(folder / "mixtral_popularity/mixtral_popularity_rank.csv").values.shape == (1, 32, 8)
