"""Transforms of traces: what each step keeps and changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments.cli import main
from traces import RequestTrace, Trace, TraceMeta, TraceWriter, data_path, open_trace
from traces.transforms import Stream, TransformError, list_transforms, transform_trace, usage

META = TraceMeta(
    model="toy",
    num_experts=8,
    top_k=3,
    native_top_k=4,
    layers=(1, 3, 4, 6),
    expert_bytes=(10, 11, 12, 13),
    has_weights=True,
    has_probabilities=True,
    guess_distances=2,
    guess_width=2,
    has_norms=True,
    embedding_width=5,
)
TASKS = ("law", "maths", "law", None)
LENGTHS = ((2, 5), (0, 3), (4, 6), (1, 2))  # prompt and generated tokens
RICH_STEPS = (
    "crop 3",
    "crop phase=decode",
    "drop weights,guesses",
    "sample 2 seed=3",
    "filter task=law",
    "filter ids=1,3",
    "layers 3:7",
    "layers 1,6",
    "relabel seed=5",
    "repeat_layer 3 place=1",
    "rename other",
    "rename law=legal",
    "retime start=0",
    "retime shift=7 close_gaps=yes",
    "shuffle within_request",
    "shuffle global seed=2",
    "shuffle uniform",
    "skew 1.5 seed=2",
    "top_k 2 renormalise=yes",
    "concatenate OTHER",
    "multiplex OTHER burst=2",
)


def toy(request: int) -> RequestTrace:
    """A random request with a gap in its positions and one layer that its first token skipped."""
    draws = np.random.default_rng(request)
    prompt, generated = LENGTHS[request]
    tokens = prompt + generated
    probabilities = draws.random((tokens, 4, 8), dtype=np.float32)
    experts = np.argsort(-probabilities, axis=-1)[..., :3].astype(np.int16)
    weights = np.take_along_axis(probabilities, experts.astype(np.int64), axis=-1)
    experts[0, 3], weights[0, 3] = -1, np.nan
    guesses = draws.permuted(np.tile(np.arange(8, dtype=np.int16), (tokens, 4, 2, 1)), axis=-1)[..., :2].copy()
    guesses[:, 3, 0] = guesses[:, 2:, 1] = -1
    positions = 10 * request + np.arange(tokens)
    positions[-1] += 5
    return RequestTrace(
        id=request,
        positions=positions.astype(np.int32),
        phases=np.repeat(np.array([0, 1], dtype=np.int8), (prompt, generated)),
        experts=experts,
        weights=weights,
        probabilities=probabilities,
        guesses=guesses,
        norms=draws.random((tokens, 4), dtype=np.float32),
        embedding=draws.standard_normal(5, dtype=np.float32),
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with TraceWriter(tmp_path / "source.parquet", META) as writer:
        for request, task in enumerate(TASKS):
            writer.write(toy(request), task)
    return tmp_path / "source.parquet"


@pytest.fixture
def do(source: Path) -> Callable[..., Trace]:
    """Run steps on the toy trace; OTHER stands for its file."""

    def run(*steps: str, name: str = "out.parquet") -> Trace:
        named = [step.replace("OTHER", str(source)) for step in steps]
        return transform_trace(source, source.with_name(name), named)

    return run


def tasks(trace: Trace) -> list[tuple[int, str | None]]:
    return [(info.id, info.task) for info in trace.requests]


def same_routing(ours: RequestTrace, theirs: RequestTrace) -> bool:
    return all(
        np.array_equal(getattr(ours, name), getattr(theirs, name), equal_nan=True)
        for name in ("experts", "weights", "probabilities", "norms")
    ) and np.array_equal(ours.guesses, theirs.guesses)


@pytest.mark.parametrize("step", RICH_STEPS)
def test_every_transform_gives_a_sound_trace_and_the_same_bytes_each_time(do, tmp_path, step) -> None:
    trace = do(step)
    open_trace(trace.path, verify=True)
    assert do(step, name="again.parquet").path.read_bytes() == trace.path.read_bytes()
    with TraceWriter(tmp_path / "copy.parquet", trace.meta) as writer:
        for info, request in zip(trace.requests, trace, strict=True):
            writer.write(request, info.task)
    assert (tmp_path / "copy.parquet").read_bytes() == trace.path.read_bytes()


def test_every_transform_is_tried_here() -> None:
    names = {module.__name__.rpartition(".")[2] for module in list_transforms()}
    assert names == {step.split()[0] for step in RICH_STEPS}


def test_the_notes_tell_the_source_its_digest_and_all_steps_with_their_defaults(do, source) -> None:
    digest = open_trace(source).meta.digest
    notes = do("sample 3", "concatenate OTHER").meta.notes
    assert notes == (
        f"made from source.parquet (digest {digest}); sample requests=3 seed=0; "
        f"others have digest {digest}; concatenate traces={source}"
    )


def test_steps_are_done_in_order(do) -> None:
    assert [info.tokens for info in do("crop phase=decode", "crop 4").requests] == [4, 3, 4, 2]
    assert [info.tokens for info in do("crop 4", "crop phase=decode").requests] == [2, 3, 2]


def test_crop_keeps_a_part_of_the_tokens_at_their_positions(do) -> None:
    trace = do("crop 3 start=1")
    for index, request in enumerate(trace):
        whole = toy(index)
        assert request.positions.tolist() == whole.positions[1:4].tolist()
        assert request.experts.tolist() == whole.experts[1:4].tolist()
    assert [info.id for info in do("crop start=6").requests] == [0, 2]  # the others have 3 tokens


def test_sample_draws_by_seed_and_keeps_order_and_ids(do) -> None:
    drawn = {tuple(info.id for info in do(f"sample 2 seed={seed}").requests) for seed in range(12)}
    assert len(drawn) > 2
    assert all(list(ids) == sorted(set(ids)) and len(ids) == 2 for ids in drawn)
    assert len(do("sample 4")) == 4


def test_filter_by_task_id_and_length(do) -> None:
    assert tasks(do("filter task=law")) == [(0, "law"), (2, "law")]
    assert tasks(do("filter task=law,maths min_tokens=5")) == [(0, "law"), (2, "law")]
    assert tasks(do("filter ids=3,1 max_tokens=3")) == [(1, "maths"), (3, None)]


def test_concatenate_and_multiplex_number_all_requests_anew(do) -> None:
    behind = do("concatenate OTHER,OTHER")
    assert tasks(behind) == list(enumerate(TASKS * 3))
    assert same_routing(behind.request(9), toy(1))
    turns = do("rename mine", "filter ids=0,1,2", "multiplex OTHER burst=2")
    assert [task for _, task in tasks(turns)] == ["mine", "mine", "law", "maths", "mine", "law", None]
    assert same_routing(turns.request(5), toy(2))


def test_traces_that_do_not_fit_one_file_are_refused(do) -> None:
    with pytest.raises(TransformError, match="all traces must have the same num_experts, not 8 and 32"):
        do("concatenate gpt_oss_20b.parquet")


def test_rename_changes_tasks(do) -> None:
    assert tasks(do("rename law=legal 'maths=pure maths'")) == [
        (0, "legal"),
        (1, "pure maths"),
        (2, "legal"),
        (3, None),
    ]
    assert {task for _, task in tasks(do("rename tenant_a"))} == {"tenant_a"}


def test_repeat_layer_gives_all_layers_the_routing_of_one(do) -> None:
    for ours, whole in zip(do("repeat_layer 3 place=1"), map(toy, range(4)), strict=True):
        for layer in range(3):
            assert np.array_equal(ours.experts[:, layer], whole.experts[:, 1])
            assert np.array_equal(ours.norms[:, layer], whole.norms[:, 1], equal_nan=True)
        assert ours.guesses is None
        assert np.array_equal(ours.positions, whole.positions)


def test_relabel_by_an_order_renumbers_experts_guesses_and_probabilities_alike(do) -> None:
    order = [3, 0, 1, 2, 7, 6, 5, 4]
    for ours, whole in zip(do(f"relabel order={','.join(map(str, order))}"), map(toy, range(4)), strict=True):
        new = np.array([*order, -1])
        assert ours.experts.tolist() == new[whole.experts].tolist()
        assert ours.guesses.tolist() == new[whole.guesses].tolist()
        assert ours.probabilities[..., order].tolist() == whole.probabilities.tolist()


def test_relabel_by_a_seed_permutes_each_layer_and_keeps_guesses_right(do) -> None:
    trace = do("relabel seed=1")
    mappings: list[dict[int, int]] = [{} for _ in META.layers]
    for ours, whole in zip(trace, map(toy, range(4)), strict=True):
        for (token, layer, slot), expert in np.ndenumerate(whole.experts):
            assert mappings[layer].setdefault(int(expert), int(ours.experts[token, layer, slot])) >= -1
            assert mappings[layer][int(expert)] == ours.experts[token, layer, slot]
    assert all(len(set(mapping.values())) == len(mapping) for mapping in mappings)
    assert len({tuple(sorted(mapping.items())) for mapping in mappings}) > 1

    def right(trace: list[RequestTrace]) -> int:
        return sum(int((r.guesses[:, :3, 0, :, None] == r.experts[:, 1:, None, :]).sum()) for r in trace)

    assert right(list(trace)) == right([toy(index) for index in range(4)])


def test_top_k_keeps_the_best_and_can_keep_the_sum_of_the_weights(do) -> None:
    plain, scaled = do("top_k 2", name="a.parquet"), do("top_k 2 renormalise=yes", name="b.parquet")
    assert (plain.meta.top_k, plain.meta.native_top_k) == (2, 4)
    for ours, other, whole in zip(plain, scaled, map(toy, range(4)), strict=True):
        assert ours.experts.tolist() == other.experts.tolist() == whole.experts[..., :2].tolist()
        np.testing.assert_array_equal(ours.weights, whole.weights[..., :2])
        np.testing.assert_allclose(np.nansum(other.weights, -1), np.nansum(whole.weights, -1), rtol=1e-5)


def test_top_k_goes_by_weight_where_the_rank_is_lost_and_needs_one_of_them(tmp_path) -> None:
    meta = TraceMeta(model="m", num_experts=8, top_k=3, native_top_k=3, layers=(0,), rank_known=False, has_weights=True)
    request = RequestTrace(
        id=0,
        positions=np.array([0], dtype=np.int32),
        phases=np.array([1], dtype=np.int8),
        experts=np.array([[[1, 4, 6]]], dtype=np.int16),
        weights=np.array([[[0.2, 0.5, 0.3]]], dtype=np.float32),
    )
    with TraceWriter(tmp_path / "in.parquet", meta) as writer:
        writer.write(request)
    trace = transform_trace(tmp_path / "in.parquet", tmp_path / "out.parquet", ["top_k 2"])
    assert (trace.request(0).experts.tolist(), trace.meta.rank_known) == ([[[4, 6]]], True)
    with pytest.raises(TransformError, match="neither weights nor a known rank"):
        transform_trace(data_path("olmoe_1b_7b.parquet"), tmp_path / "no.parquet", ["top_k 2"])


@pytest.mark.parametrize("step", ["shuffle within_request", "shuffle global seed=4"])
def test_exchanging_tokens_keeps_whole_tokens_and_where_there_are_how_many(do, step) -> None:
    trace = do(step)
    before, after = list(map(toy, range(4))), list(trace)

    def bag(requests: list[RequestTrace], phase: int) -> list[bytes]:
        rows = [row for r in requests for row in zip(r.experts, r.weights, r.guesses, r.norms, r.phases, strict=True)]
        return sorted(b"".join(part.tobytes() for part in row[:4]) for row in rows if row[4] == phase)

    groups = [([a], [b]) for a, b in zip(before, after, strict=True)] if "within" in step else [(before, after)]
    for ours, theirs in groups:
        assert all(bag(ours, phase) == bag(theirs, phase) for phase in (0, 1))
    assert [r.positions.tolist() for r in after] == [r.positions.tolist() for r in before]
    assert any(not same_routing(a, b) for a, b in zip(after, before, strict=True))


def overlap(requests: list[RequestTrace]) -> float:
    """Share of a token's experts that the token before it had too, mean over tokens and layers."""
    shared = [(r.experts[1:, :, :, None] == r.experts[:-1, :, None, :]).any(-1).mean(axis=(1, 2)) for r in requests]
    return float(np.concatenate(shared).mean())


def test_shuffles_take_more_and_more_of_the_locality_of_a_real_trace(tmp_path) -> None:
    source = data_path("gpt_oss_20b.parquet")
    kinds = ("within_request", "global", "uniform")
    paths = {kind: tmp_path / f"{kind}.parquet" for kind in kinds}
    found = [overlap(list(open_trace(source)))]
    found += [overlap(list(transform_trace(source, paths[kind], [f"shuffle {kind}"]))) for kind in kinds]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[1] + 0.05 > found[2] + 0.1
    assert found[3] == pytest.approx(4 / 32, abs=0.003)  # k / E


def test_skew_draws_the_nth_expert_as_often_as_its_power_of_n_says(tmp_path) -> None:
    steps = ["top_k 1", "skew 2"]
    requests = list(transform_trace(data_path("gpt_oss_20b.parquet"), tmp_path / "skewed.parquet", steps))
    chosen = np.concatenate([request.experts[:, :, 0] for request in requests])
    counts = -np.sort([-np.bincount(layer, minlength=32) for layer in chosen.T], axis=1)
    weights = np.arange(1.0, 33.0) ** -2
    assert counts.sum(axis=0)[:8] / counts.sum() == pytest.approx(weights[:8] / weights.sum(), abs=0.01)
    assert len({layer.argmax() for layer in map(np.bincount, chosen.T)}) > 8  # the first of each layer is another


@pytest.mark.parametrize("step", ["shuffle uniform", "skew 0.5"])
def test_drawn_experts_are_distinct_and_fill_the_filled_slots_alone(do, step) -> None:
    trace = do(step)
    assert (trace.meta.has_probabilities, trace.meta.guess_distances, trace.meta.has_weights) == (False, 0, True)
    for ours, whole in zip(trace, map(toy, range(4)), strict=True):
        assert ((ours.experts < 0) == (whole.experts < 0)).all()
        np.testing.assert_array_equal(ours.weights, whole.weights)


def test_layers_are_cut_with_their_sizes_and_guesses_end_at_the_last(do) -> None:
    trace = do("layers 3:6")
    assert (trace.meta.layers, trace.meta.expert_bytes, trace.meta.guess_distances) == ((3, 4), (11, 12), 2)
    for ours, whole in zip(trace, map(toy, range(4)), strict=True):
        assert ours.experts.tolist() == whole.experts[:, 1:3].tolist()
        assert ours.guesses[:, 0, 0].tolist() == whole.guesses[:, 1, 0].tolist()
        assert (ours.guesses[:, 1] == -1).all()
        assert (ours.guesses[:, 0, 1] == -1).all()
    apart = do("layers 1,4")
    assert (apart.meta.layers, apart.meta.guess_distances) == ((1, 4), 0)


def row_of_token(step: str) -> Callable[[RequestTrace], slice]:
    """Which tokens of a request the step keeps."""
    kept = {"crop 3": slice(3), "crop phase=decode": None}.get(step, slice(None))
    return lambda whole: slice(int((whole.phases == 0).sum()), None) if kept is None else kept


@pytest.mark.parametrize(
    "step", [step for step in RICH_STEPS if step.split()[0] not in ("layers", "repeat_layer", "shuffle")]
)
def test_norms_stay_with_their_tokens_and_embeddings_with_their_requests(do, step) -> None:
    trace = do(step)
    assert (trace.meta.has_norms, trace.meta.embedding_width) == (True, 5)
    known = {toy(index).embedding.tobytes(): toy(index) for index in range(4)}
    assert [row.tobytes() for row in trace.embeddings()] == [request.embedding.tobytes() for request in trace]
    for request in trace:
        whole = known[request.embedding.tobytes()]
        assert request.norms.tolist() == whole.norms[row_of_token(step)(whole)].tolist()


def test_layers_take_their_norms_with_them_and_leave_the_embedding(do) -> None:
    for ours, whole in zip(do("layers 1,6"), map(toy, range(4)), strict=True):
        assert ours.norms.tolist() == whole.norms[:, [0, 3]].tolist()
        assert ours.embedding.tolist() == whole.embedding.tolist()


@pytest.mark.parametrize("kind", ["within_request", "global", "uniform"])
def test_shuffled_requests_keep_their_embeddings_and_norms_go_with_the_routing_that_is_exchanged(do, kind) -> None:
    norms_of = {experts: norms for index in range(4) for experts, norms in tokens_of(toy(index))}
    for ours, whole in zip(do(f"shuffle {kind}"), map(toy, range(4)), strict=True):
        assert ours.embedding.tolist() == whole.embedding.tolist()
        if kind == "uniform":
            assert ours.norms.tolist() == whole.norms.tolist()
        else:
            assert all(norms_of[experts] == norms for experts, norms in tokens_of(ours))


def tokens_of(request: RequestTrace) -> list[tuple[bytes, list[float]]]:
    """Experts and norms of each token."""
    rows = zip(request.experts, request.norms, strict=True)
    return [(experts.tobytes(), norms.tolist()) for experts, norms in rows]


def test_traces_with_embeddings_are_joined_only_if_they_are_of_one_model(do, source) -> None:
    trace = open_trace(source)
    other = source.with_name("other.parquet")
    with TraceWriter(other, dataclasses.replace(META, model="toy2")) as writer:
        writer.write(trace.request(0))
    with pytest.raises(TransformError, match="concatenate: all traces must have the same model, not toy and toy2"):
        do(f"concatenate {other}")
    transform_trace(other, source.with_name("plain.parquet"), ["drop embedding"])
    joined = do("drop embedding", f"multiplex {source.with_name('plain.parquet')}")
    assert (len(joined), joined.meta.embedding_width, joined.meta.has_norms) == (5, 0, True)
    with pytest.raises(TransformError, match="multiplex: all traces must have the same embedding_width, not 5 and 0"):
        do(f"multiplex {source.with_name('plain.parquet')}")


def test_drop_leaves_out_what_is_named_and_nothing_else(do) -> None:
    trace = do("drop weights,probabilities,guesses,norms,embedding")
    meta = trace.meta
    assert (meta.has_weights, meta.has_probabilities, meta.guess_distances, meta.has_norms) == (False, False, 0, False)
    assert meta.embedding_width == 0
    for ours, whole in zip(trace, map(toy, range(4)), strict=True):
        assert ours.experts.tolist() == whole.experts.tolist()
        assert ours.weights is ours.probabilities is ours.guesses is ours.norms is ours.embedding is None
    some = do("drop norms", name="some.parquet").request(1)
    assert some.norms is None
    assert some.embedding.tolist() == toy(1).embedding.tolist()
    assert some.weights is not None


def test_retime_moves_positions_and_nothing_else(do) -> None:
    assert [r.positions[0] for r in do("retime start=4")] == [4] * 4
    assert do("retime shift=3").request(1).positions.tolist() == [13, 14, 20]
    assert do("retime close_gaps=yes").request(1).positions.tolist() == [10, 11, 12]
    assert same_routing(do("retime start=0 close_gaps=yes").request(2), toy(2))


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ("cop 3", "step 'cop 3': there is no transform 'cop'; did you mean 'crop'?"),
        ("", "step '': there is no transform ''; there are concatenate, crop, drop, filter, layers, multiplex"),
        ("crop 'x", "step 'crop 'x': the quotes must be closed."),
        ("crop three", "step 'crop three': tokens must be an integer, not 'three'."),
        (
            "crop 3 length=4",
            "step 'crop 3 length=4': 'length' is not known; expected 'crop [tokens] [start=0] [phase]'.",
        ),
        ("crop 3 tokens=4", "step 'crop 3 tokens=4': 'tokens' is given twice; expected 'crop"),
        ("crop 1 2 decode 4", "step 'crop 1 2 decode 4': '4' is too much; expected 'crop"),
        ("sample", "step 'sample': 'requests' is missing; expected 'sample requests [seed=0]'."),
        ("top_k 2 renormalise=1", "step 'top_k 2 renormalise=1': renormalise must be yes or no, not '1'."),
        ("crop", "crop: tokens, start or phase must be given."),
        ("crop 0", "crop: tokens must be at least 1, and start at least 0."),
        ("drop", "step 'drop': 'what' is missing; expected 'drop what'."),
        (
            "drop experts",
            "drop: 'experts' cannot be left out; there are weights, probabilities, guesses, norms, embedding.",
        ),
        ("crop phase=both", "crop: phase must be prefill or decode, not 'both'."),
        ("sample 5", "sample: 5 requests are wanted, but there are 4."),
        ("filter task=lwa", "filter: there is no task 'lwa'; did you mean 'law'?"),
        ("filter ids=4", "filter: there is no request 4."),
        ("filter min_tokens=99", "source.parquet: no request is left after 'filter min_tokens=99'."),
        ("rename", "rename: either all=NEW or one or more OLD=NEW must be given."),
        ("rename stream=x", "rename: there is no task 'stream'; there are law, maths."),
        ("repeat_layer 2 place=4", "repeat_layer: place must be from 0 to 3, not 4."),
        ("repeat_layer 0", "repeat_layer: layers must be at least 1, not 0."),
        ("relabel order=0,1", "relabel: order must name each of the experts 0 to 7 once."),
        ("top_k 4", "top_k: k must be from 1 to the trace's top-k 3, not 4."),
        ("shuffle all", "shuffle: kind must be one of within_request, global, uniform, and seed at least 0."),
        ("layers 2", "layers: the trace has no routed layer 2 (it has 1 to 6)."),
        ("layers 7:", "layers: no routed layer is in '7:' (the trace has 1 to 6)."),
        ("layers some", "layers: keep must be layer indices such as 3,5,9 or a range such as 0:12, not 'some'."),
        ("retime", "retime: start, shift or close_gaps=yes must be given."),
        (
            "retime shift=-11",
            "retime: request 0 would be at positions -11 to 0, but they must be from 0 to 2147483647.",
        ),
        ("concatenate no.parquet", "no.parquet: there is no such trace file"),
        ("multiplex OTHER burst=0", "multiplex: burst must be at least 1."),
    ],
)
def test_a_step_that_cannot_be_done_is_refused_and_leaves_no_file(do, source, step, sentence) -> None:
    with pytest.raises(ValueError, match=r"\.$|\?$") as caught:
        do(step)
    assert str(caught.value).startswith(sentence)
    assert [path.name for path in source.parent.iterdir()] == ["source.parquet"]


def test_the_command_writes_a_trace_lists_the_steps_and_refuses_in_one_sentence(tmp_path, capsys) -> None:
    out = tmp_path / "out.parquet"
    assert main(["trace", "transform", "gpt_oss_20b", str(out), "--do", "sample 2", "--do", "top_k 1"]) == 0
    assert "gpt_oss_20b, 2 requests, " in capsys.readouterr().out
    assert open_trace(out).meta.top_k == 1
    assert main(["trace", "transform", "gpt_oss_20b", str(tmp_path / "no.parquet"), "--do", "top_k 9"]) == 2
    assert capsys.readouterr().err == "top_k: k must be from 1 to the trace's top-k 4, not 9.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    assert main(["trace", "transform", "gpt_oss_20b", str(out), "--do", "help"]) == 0
    assert "crop [tokens] [start=0] [phase]\n" in capsys.readouterr().out


def test_a_transform_reads_nothing_before_its_rows_are_asked_for() -> None:
    def rows() -> None:
        raise AssertionError("read too early")

    stream = Stream(dataclasses.replace(META, notes=""), rows)  # type: ignore[arg-type]
    for module in list_transforms():
        if module.__name__.rpartition(".")[2] not in ("concatenate", "multiplex"):
            arguments = {
                "crop": [1],
                "drop": [["norms"]],
                "filter": [],
                "layers": ["1"],
                "rename": ["x"],
                "retime": [1],
            }
            arguments |= {
                "relabel": [],
                "repeat_layer": [2],
                "sample": [1],
                "shuffle": ["global"],
                "skew": [1.0],
                "top_k": [1],
            }
            name = usage(module).split()[0]
            assert isinstance(module.apply(stream, *arguments[name]), Stream)
