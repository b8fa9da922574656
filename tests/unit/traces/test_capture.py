"""A capture as a whole: batches, phases, sampling, interruption, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from traces import open_trace  # noqa: E402
from traces.capture import CaptureError  # noqa: E402
from traces.capture.overhead import decode_times  # noqa: E402
from traces.capture.prompts import Prompt  # noqa: E402
from traces.capture.run import Settings, Source, capture_trace  # noqa: E402

VOCAB, EXPERTS = 64, 8
PROMPTS = [Prompt("abcdefg", "letters"), Prompt("zy"), Prompt("mnopq"), Prompt("rstuvwxy", "letters"), Prompt("k")]


class Letters:
    """A tokenizer: a letter is a token."""

    pad_token_id, eos_token_id = 0, None

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) % (VOCAB - 2) + 2 for letter in text]}


def model(end: int | None = None, kind: str = "Olmoe", **changes: Any) -> Any:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "eos_token_id": end,
        **changes,
    }
    kinds = (getattr(transformers, f"{kind}ForCausalLM"), getattr(transformers, f"{kind}Config"))
    return kinds[0]._from_config(kinds[1](**values)).eval()


def run(path: Path, subject: Any = None, **settings: Any) -> Any:
    asked = Settings(**{"new_tokens": 6, "batch": 2, **settings})
    return capture_trace(subject or model(), Letters(), PROMPTS, path, asked, Source(model="tiny", licence="none"))


def test_requests_have_their_prompts_as_prefill_and_all_new_tokens_but_the_last_as_decode(tmp_path: Path) -> None:
    trace = run(tmp_path / "t.parquet", guesses=3)
    assert [info.prefill_tokens for info in trace.requests] == [7, 2, 5, 8, 1]
    assert [info.decode_tokens for info in trace.requests] == [5] * 5
    assert [info.task for info in trace.requests] == ["letters", None, None, "letters", None]
    assert all(request.positions.tolist() == list(range(request.tokens)) for request in trace)
    assert (trace.meta.layers, trace.meta.num_experts, trace.meta.top_k) == ((0, 1, 2, 3), EXPERTS, 2)
    assert trace.meta.expert_bytes == (3 * 32 * 16 * 4,) * 4
    assert (trace.meta.guess_distances, trace.meta.guess_width) == (3, 2)
    open_trace(trace.path, verify=True)


def test_padding_in_a_batch_is_not_captured_and_changes_no_choice(tmp_path: Path) -> None:
    together = run(tmp_path / "a.parquet", batch=5, temperature=0.0)
    alone = run(tmp_path / "b.parquet", batch=1, temperature=0.0)
    for one, other in zip(together, alone, strict=True):
        assert one.experts.tolist() == other.experts.tolist()
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-5)


def test_probabilities_are_of_all_experts_and_hold_the_weights(tmp_path: Path) -> None:
    request = run(tmp_path / "t.parquet", probabilities=True).request(0)
    assert request.probabilities.shape == (12, 4, EXPERTS)
    np.testing.assert_allclose(request.probabilities.sum(-1), 1, rtol=1e-5)
    at = request.experts.astype(int)
    np.testing.assert_allclose(np.take_along_axis(request.probabilities, at, -1), request.weights, rtol=1e-5)


def test_probabilities_can_be_rounded_to_few_bits(tmp_path: Path) -> None:
    exact = run(tmp_path / "a.parquet", probabilities=True).request(0).probabilities
    rounded = run(tmp_path / "b.parquet", probabilities=True, probability_bits=8).request(0).probabilities
    assert (rounded.view(np.int32) & 0xFFFF == 0).all()  # the lower half of a float32 is empty
    np.testing.assert_allclose(rounded, exact, rtol=2**-8)
    assert (rounded != exact).any()


def test_probabilities_of_a_sigmoid_router_do_not_add_up_to_1_but_hold_its_weights(tmp_path: Path) -> None:
    changes = {"num_local_experts": EXPERTS, "head_dim": 8, "num_key_value_heads": 2}
    trace = run(tmp_path / "t.parquet", model(kind="MiniMaxM2", **changes), probabilities=True)
    request = trace.request(0)
    chosen = np.take_along_axis(request.probabilities, request.experts.astype(int), -1)
    np.testing.assert_allclose(chosen / chosen.sum(-1, keepdims=True), request.weights, rtol=1e-5)
    assert "probabilities are the sigmoid" in trace.meta.notes


def test_norms_and_embeddings_are_recorded_only_if_asked_for(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain.parquet")
    assert (plain.meta.has_norms, plain.meta.embedding_width, plain.embeddings().shape) == (False, 0, (5, 0))
    norms = run(tmp_path / "norms.parquet", norms=True)
    assert (norms.request(0).norms.shape, norms.request(0).embedding) == ((12, 4), None)
    embeddings = run(tmp_path / "embeddings.parquet", embeddings=True)
    assert (embeddings.request(0).norms, embeddings.embeddings().shape) == (None, (5, 32))
    assert "mean of the input embeddings of the prompt's tokens" in embeddings.meta.notes
    for one, other, third in zip(plain, norms, embeddings, strict=True):
        assert one.experts.tolist() == other.experts.tolist() == third.experts.tolist()


def test_padding_changes_no_norm_and_no_embedding_and_a_cut_prompt_is_embedded_as_it_is_fed(tmp_path: Path) -> None:
    more = {"norms": True, "embeddings": True, "temperature": 0.0}
    together = run(tmp_path / "a.parquet", batch=5, **more)
    alone = run(tmp_path / "b.parquet", batch=1, **more)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.norms, other.norms, rtol=1e-5)
    assert together.embeddings().tolist() == alone.embeddings().tolist()
    subject = model()
    cut = run(tmp_path / "c.parquet", subject, prompt_tokens=1, embeddings=True)
    table = subject.get_input_embeddings().weight
    first = [Letters()(prompt.text)["input_ids"][0] for prompt in PROMPTS]
    assert cut.embeddings().tolist() == table[first].tolist()


def test_norms_of_a_model_in_bfloat16_are_summed_in_float32(tmp_path: Path) -> None:
    subject, seen = model().bfloat16(), []
    router = subject.model.layers[0].mlp.gate
    router.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().double().reshape(-1, 32)))
    trace = run(tmp_path / "t.parquet", subject, batch=5, norms=True, embeddings=True)
    exact = torch.cat([call.reshape(5, -1, 32) for call in seen[-6:]], dim=1).norm(dim=-1)
    for row, (request, length) in enumerate(zip(trace, (7, 2, 5, 8, 1), strict=True)):
        np.testing.assert_allclose(request.norms[:, 0], exact[row, 8 - length :], rtol=1e-6)
    assert trace.request(0).embedding.dtype == np.float32


def test_the_same_seed_gives_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    files = [run(tmp_path / f"{name}.parquet", seed=seed).path for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    first, second, third = (Path(file).read_bytes() for file in files)
    assert first == second != third


def test_torchs_own_generator_is_left_alone(tmp_path: Path) -> None:
    subject = model()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    run(tmp_path / "t.parquet", subject)
    assert torch.rand(3).tolist() == expected.tolist()


def test_an_interrupted_capture_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    more = {"probabilities": True, "guesses": 1, "norms": True, "embeddings": True}
    whole = run(tmp_path / "whole.parquet", **more).path

    def interrupt(text: str) -> None:
        if text.startswith("request 4"):
            raise KeyboardInterrupt

    cut, settings = tmp_path / "cut.parquet", Settings(new_tokens=6, batch=2, **more)
    source = Source(model="tiny", licence="none")
    with pytest.raises(KeyboardInterrupt):
        capture_trace(model(), Letters(), PROMPTS, cut, settings, source, say=interrupt)
    assert not cut.exists()
    kept = sorted(path.name for path in (tmp_path / "cut.parquet.capture").glob("*.npz"))
    assert kept == [f"00000{number}.npz" for number in range(4)]
    calls = []
    subject = model()
    subject.register_forward_hook(lambda *_: calls.append(1))
    capture_trace(subject, Letters(), PROMPTS, cut, settings, source)
    assert cut.read_bytes() == Path(whole).read_bytes()
    assert len(calls) == 1 + 2 + 6  # a probe, two prompts' cross-entropy, and the last batch alone
    assert not (tmp_path / "cut.parquet.capture").exists()


def test_going_on_with_other_settings_is_refused(tmp_path: Path) -> None:
    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "t.parquet"
    with pytest.raises(KeyboardInterrupt):
        capture_trace(model(), Letters(), PROMPTS, out, Settings(new_tokens=3), Source(model="tiny"), say=interrupt)
    with pytest.raises(CaptureError, match="begun there with 'new_tokens' 3, not 4"):
        capture_trace(model(), Letters(), PROMPTS, out, Settings(new_tokens=4), Source(model="tiny"))


def test_nothing_is_captured_after_the_end_token(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.jsonl"
    arguments = (Letters(), PROMPTS, tmp_path / "t.parquet", Settings(new_tokens=40, batch=5), Source(model="tiny"))
    trace = capture_trace(model(end=5, initializer_range=0.02), *arguments, tokens=tokens)
    lines = [json.loads(line) for line in tokens.read_text().splitlines()]
    ended = [line for line in lines if 5 in line["generated"]]
    assert ended
    assert len(ended) < len(lines)
    assert all(line["generated"].index(5) == len(line["generated"]) - 1 for line in ended)
    decoded = [info.decode_tokens for info in trace.requests]
    assert decoded == [len(line["generated"]) - 1 for line in lines]


def test_tokens_are_kept_only_if_asked_for(tmp_path: Path) -> None:
    run(tmp_path / "t.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_prompts_can_be_cut(tmp_path: Path) -> None:
    trace = run(tmp_path / "t.parquet", prompt_tokens=4)
    assert [info.prefill_tokens for info in trace.requests] == [4, 2, 4, 4, 1]


def test_a_random_model_is_warned_of(tmp_path: Path) -> None:
    said: list[str] = []
    subject = model(initializer_range=0.02)
    out = tmp_path / "t.parquet"
    trace = capture_trace(
        subject, Letters(), PROMPTS, out, Settings(new_tokens=2), Source(model="tiny"), say=said.append
    )
    assert any("barely trained models repeat experts" in text for text in said)
    assert "hardly been trained" in trace.meta.notes


def test_a_model_that_predicts_its_prompts_is_not_warned_of(tmp_path: Path) -> None:
    subject = model(initializer_range=0.05, tie_word_embeddings=True)
    ids = torch.tensor([Letters()(prompt.text)["input_ids"] for prompt in PROMPTS[:1]])
    optimizer = torch.optim.Adam(subject.parameters(), lr=1e-2)
    for _ in range(20):
        subject(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    said: list[str] = []
    out = tmp_path / "t.parquet"
    capture_trace(subject, Letters(), PROMPTS[:1], out, Settings(new_tokens=2), Source(model="tiny"), say=said.append)
    assert not any("warning" in text for text in said)


@pytest.mark.parametrize(("name", "value"), [("guesses", 4), ("new_tokens", 0), ("batch", 0), ("temperature", -1.0)])
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(CaptureError, match=f"'{name}' is {value}; expected"):
        Settings(**{name: value})


def test_decode_times_are_measured_with_and_without_hooks() -> None:
    settings = Settings(new_tokens=4, guesses=1, norms=True, embeddings=True)
    plain, recorded = decode_times(model(), Letters(), PROMPTS[:2], settings, rounds=2)
    assert min(plain, recorded) > 0
