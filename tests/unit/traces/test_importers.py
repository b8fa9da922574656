"""Files of foreign formats become traces that hold what the files say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.unit.traces import foreign_files as foreign
from traces import Trace, TraceError, TraceWriter, data_path, open_trace
from traces.importers import find_importer, import_trace, list_importers

EXTRA_DATA = os.environ.get("MOESIM_EXTRA_DATA")
needs_extra_data = pytest.mark.skipif(EXTRA_DATA is None, reason="needs MOESIM_EXTRA_DATA")
BY_REQUEST = [name for name in foreign.BUILDERS if name not in ("layer_lists", "stratamoe", "esft")]


def imported(source: Path, folder: Path, **options) -> Trace:
    return import_trace(source, folder / "out.parquet", **options)


def build(name: str, folder: Path) -> Path:
    return foreign.BUILDERS[name](folder)


@pytest.mark.parametrize("name", BY_REQUEST)
def test_every_format_with_requests_gives_the_same_routing_and_phases(tmp_path, name) -> None:
    trace = imported(build(name, tmp_path), tmp_path, **foreign.OPTIONS.get(name, {}))
    assert (trace.meta.num_experts, trace.meta.top_k, trace.meta.layers) == (8, 2, (0, 1, 2))
    for number, (prompt, generated) in enumerate(foreign.LENGTHS):
        request = trace.request(number)
        assert request.experts.tolist() == foreign.experts(number, prompt + generated).tolist()
        assert request.positions.tolist() == list(range(prompt + generated))
        assert request.phases.tolist() == [0] * prompt + [1] * generated


@pytest.mark.parametrize("name", foreign.BUILDERS)
def test_each_format_has_its_own_importer_and_only_that_knows_it(tmp_path, name) -> None:
    path = build(name, tmp_path)
    assert sum(module.recognise(path) for module in list_importers()) == 1
    unnamed = path.rename(path.with_name("mislead.bin"))
    assert find_importer(unnamed).recognise(unnamed)


@pytest.mark.parametrize("name", foreign.BUILDERS)
def test_wanted_requests_keep_their_ids_and_others_are_refused(tmp_path, name) -> None:
    path, options = build(name, tmp_path), foreign.OPTIONS.get(name, {})
    wanted = [0] if name == "layer_lists" else [0, 2]
    assert [request.id for request in imported(path, tmp_path, requests=wanted, **options)] == wanted
    with pytest.raises(TraceError, match="request 9 is wanted but the file does not hold it"):
        import_trace(path, tmp_path / "other.parquet", requests=[9], salvage=True, **options)


@pytest.mark.parametrize("name", foreign.BUILDERS)
def test_writing_an_imported_trace_again_gives_the_same_bytes(tmp_path, name) -> None:
    trace = imported(build(name, tmp_path), tmp_path, **foreign.OPTIONS.get(name, {}))
    with TraceWriter(tmp_path / "again.parquet", trace.meta) as writer:
        for info, request in zip(trace.requests, trace, strict=True):
            writer.write(request, info.task)
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "out.parquet").read_bytes()


def test_token_lists_keep_their_positions_as_decode_and_sorted_ids_have_no_rank(tmp_path) -> None:
    trace = imported(foreign.layer_lists(tmp_path), tmp_path, num_experts=8)
    request = trace.request(0)
    assert request.positions.tolist() == list(range(1, 13))
    assert set(request.phases.tolist()) == {1}
    assert request.experts.tolist() == np.sort(foreign.experts(0, 12), axis=-1).tolist()
    assert not trace.meta.rank_known


def test_the_number_of_experts_is_given_or_known_by_the_model_but_never_guessed(tmp_path) -> None:
    path = foreign.layer_lists(tmp_path)
    with pytest.raises(TraceError, match=r"num_experts must be given, or one of the models deepseek_v2_lite, .*\.$"):
        imported(path, tmp_path)
    trace = imported(path, tmp_path, model="mixtral_8x7b")
    assert (trace.meta.num_experts, trace.meta.native_top_k) == (8, 2)
    with pytest.raises(TraceError, match="num_experts is given as 9, but the file says 8"):
        imported(foreign.simllm(tmp_path), tmp_path, num_experts=9)


def test_prompts_of_switch_are_told_apart_only_by_the_file_beside(tmp_path) -> None:
    path = foreign.stratamoe(tmp_path)
    trace = imported(path, tmp_path)
    assert [(info.tokens, info.task) for info in trace.requests] == [(3, "law"), (2, "law"), (4, "maths")]
    assert trace.meta.layers == (1, 3, 5)
    assert trace.request(1).experts.tolist() == foreign.experts(1, 2).tolist()
    (tmp_path / "capture-metadata.json").unlink()
    alone = imported(path, tmp_path)
    assert (alone.meta.layers, [info.tokens for info in alone.requests]) == ((0, 1, 2), [9])


def test_samples_of_esft_are_put_into_rank_order_by_weight(tmp_path) -> None:
    """Built from the published format: ids in no order, two tabs, softmax weights."""
    trace = imported(foreign.esft(tmp_path), tmp_path)
    meta = trace.meta
    assert (meta.model, meta.num_experts, meta.top_k, meta.layers) == ("deepseek_v2_lite", 64, 6, tuple(range(1, 27)))
    for number, (prompt, _) in enumerate(foreign.LENGTHS):
        request = trace.request(number)
        assert request.experts.tolist() == foreign.experts(number, prompt, 27, 6, 64)[:, 1:].tolist()
        assert request.weights[0, 0].tolist() == pytest.approx([0.3, 0.2, 0.1, 0.05, 0.04, 0.03])
        assert set(request.phases.tolist()) == {0}
    assert {info.task for info in trace.requests} == {"law"}


def test_samples_of_several_ranks_follow_one_another(tmp_path) -> None:
    place = foreign.esft(tmp_path)
    ranks = tmp_path / "both"
    for rank in (0, 1):
        (ranks / f"rank_{rank}").mkdir(parents=True)
        for file in place.iterdir():
            (ranks / f"rank_{rank}" / file.name).write_bytes(file.read_bytes())
    assert [info.tokens for info in imported(ranks, tmp_path).requests] == [3, 2, 4, 3, 2, 4]


def test_one_file_of_esft_asks_for_the_folder(tmp_path) -> None:
    with pytest.raises(TraceError, match=r"expert_weights_3\.txt: this is one layer's file; the folder"):
        imported(foreign.esft(tmp_path) / "expert_weights_3.txt", tmp_path)


def test_arrays_of_release_021_have_the_prompt_apart(tmp_path) -> None:
    """Built from the published shapes: prompt_routed_experts [prompt, L, k], routed_experts [generated, L, k]."""
    prompt, generated = foreign.LENGTHS[0]
    ids = foreign.experts(0, prompt + generated)
    ids[0] = -1  # taken from the prefix cache
    np.savez(tmp_path / "one.npz", prompt_routed_experts=ids[:prompt], routed_experts=ids[prompt:])
    trace = imported(tmp_path / "one.npz", tmp_path, num_experts=8, model="m")
    assert trace.request(0).experts.tolist() == ids.tolist()
    assert trace.request(0).phases.tolist() == [0] * prompt + [1] * generated
    assert not trace.meta.rank_known


def test_one_response_over_several_lines_and_several_choices(tmp_path) -> None:
    response = foreign.vllm_response(1, split=True)
    response["choices"] *= 2
    (tmp_path / "one.json").write_text(json.dumps(response, indent=2))
    trace = imported(tmp_path / "one.json", tmp_path, num_experts=8)
    assert [request.experts.tolist() for request in trace] == [foreign.experts(1, 5).tolist()] * 2


def test_a_response_without_routing_names_the_switch_of_the_server(tmp_path) -> None:
    response = foreign.vllm_response(0, split=True)
    del response["choices"][0]["routed_experts"]
    (tmp_path / "one.json").write_text(json.dumps(response))
    with pytest.raises(TraceError, match="the server needs --enable-return-routed-experts"):
        imported(tmp_path / "one.json", tmp_path, num_experts=8)


# published samples that are not shipped


@needs_extra_data
def test_the_published_token_lists_are_the_shipped_olmoe_trace(tmp_path) -> None:
    source = Path(EXTRA_DATA or "") / "traces/foreign_formats/olmoe-1b-7b_warp.jsonl"
    trace = imported(source, tmp_path, model="olmoe_1b_7b")
    assert trace.meta.digest == open_trace(data_path("olmoe_1b_7b.parquet")).meta.digest


@needs_extra_data
def test_the_published_granite_dispatches(tmp_path) -> None:
    trace = imported(Path(EXTRA_DATA or "") / "traces/foreign_formats/granite-3.0-1b_simllm.jsonl", tmp_path)
    meta = trace.meta
    assert (meta.model, meta.num_experts, meta.top_k, len(meta.layers)) == ("granite_3_0_1b_a400m", 32, 8, 24)
    # 8 prompts of 8 tokens, 20 generated, the last not fed back
    assert [(info.prefill_tokens, info.decode_tokens) for info in trace.requests] == [(8, 19)] * 8
    assert trace.request(0).experts[0, 0].tolist() == [13, 14, 29, 28, 12, 18, 1, 23]


@needs_extra_data
def test_the_published_switch_trace_with_its_prompts_is_the_long_table_made_from_it(tmp_path) -> None:
    folder = Path(EXTRA_DATA or "") / "traces"
    source = tmp_path / "router.json"
    source.write_bytes((folder / "foreign_formats/switch-base-8_stratamoe.json").read_bytes())
    lengths = [21, 26, 17, 28, 19, 16, 19, 21, 25, 23]  # published in capture-metadata.json
    ends = np.cumsum(lengths).tolist()
    spans = [
        {"id": f"p-{index}", "token_start": end - length, "token_end_exclusive": end}
        for index, (length, end) in enumerate(zip(lengths, ends, strict=True))
    ]
    capture = {"prompt_spans": spans, "sparse_encoder_block_indices": [1, 3, 5, 7, 9, 11]}
    (tmp_path / "capture-metadata.json").write_text(json.dumps(capture))
    ours = imported(source, tmp_path)
    table = import_trace(folder / "per_token/switch-base-8_stratamoe.parquet", tmp_path / "table.parquet")
    assert [request.experts.tolist() for request in ours] == [request.experts.tolist() for request in table]


@needs_extra_data
def test_text_written_as_published_from_the_esft_table_gives_the_table_again(tmp_path) -> None:
    source = Path(EXTRA_DATA or "") / "traces/per_token/deepseek-v2-lite_esft_intent.parquet"
    table = import_trace(source, tmp_path / "table.parquet", requests=range(6))
    place = tmp_path / "intent"
    place.mkdir()
    requests = list(table)
    for ordinal, layer in enumerate(table.meta.layers):
        text = []
        for request in requests:
            order = np.argsort(request.experts[:, ordinal], axis=-1)
            ids = np.take_along_axis(request.experts[:, ordinal], order, axis=-1).ravel()
            weights = np.take_along_axis(request.weights[:, ordinal], order, axis=-1).ravel()
            text.append("\t".join(map(str, ids)) + "\t\t" + "\t".join(f"{weight:.4f}" for weight in weights) + "\n")
        (place / f"expert_weights_{layer}.txt").write_text("".join(text))
    for ours, theirs in zip(imported(place, tmp_path), requests, strict=True):
        np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-6)
        assert np.sort(ours.experts).tolist() == np.sort(theirs.experts).tolist()
        distinct = np.all(np.diff(theirs.weights, axis=-1) < 0, axis=-1)  # ties may be in another order
        assert distinct.mean() > 0.5
        assert ours.experts[distinct].tolist() == theirs.experts[distinct].tolist()
