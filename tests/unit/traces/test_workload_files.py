"""Request lists as files, and the command that shows them."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.cli import main
from traces import RequestInfo, data_path, open_trace
from traces.workloads import WorkloadError, make_requests, open_requests, read_requests, write_requests


def info(number: int, first: int, prefill: int, decode: int, task: str) -> RequestInfo:
    counts = {"prefill_tokens": prefill, "decode_tokens": decode, "unknown_tokens": 0}
    return RequestInfo(id=number, tokens=prefill + decode, first_position=first, task=task, **counts)


TRACE = [info(3, 20, 0, 10, "law"), info(5, 30, 0, 12, "art, fine")]
OPEN = {
    "requests": 7,
    "arrivals": {"kind": "poisson", "rate_per_s": 3},
    "decode_tokens": {"kind": "uniform", "low": 1, "high": 50},
    "tenants": {"a": 1, "b": 1},
}
HELD = {"requests": 9, "slo_ttft_s": {"law": 0.5, "art, fine": None}}
ALIKE = {"requests": 9, "prefixes": {"chat": 2, "code": 1}, "prefix_tokens": {"chat": 12, "code": 99}}
CLOSED = {"requests": 5, "arrivals": {"kind": "closed_loop", "clients": 2, "think_s": 0.25}}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("spec", [OPEN, CLOSED, HELD, ALIKE])
def test_what_is_written_is_what_is_read(tmp_path, spec, suffix):
    requests = make_requests(spec, TRACE, 4)
    write_requests(requests, tmp_path / f"list{suffix}")
    assert read_requests(tmp_path / f"list{suffix}", TRACE).digest() == requests.digest()


def test_what_requests_may_take_is_said_for_all_or_by_task():
    held = make_requests(HELD, TRACE)
    assert [held.slo_ttft_s[n] == 0.5 for n in range(9)] == [task == "law" for task in held.task]
    assert np.isnan(held.slo_tpot_s).all()
    assert make_requests({"requests": 9}, TRACE).digest() != held.digest()
    assert (make_requests({"slo_tpot_s": 2}, TRACE).slo_tpot_s == 2).all()


def test_prefixes_are_drawn_and_never_longer_than_the_prompt():
    alike = make_requests(ALIKE, TRACE)
    assert set(alike.prefix) == {"chat", "code"}
    lengths = [12 if name == "chat" else prompt for name, prompt in zip(alike.prefix, alike.prompt_tokens, strict=True)]
    assert alike.prefix_tokens.tolist() == lengths
    assert make_requests({"requests": 9}, TRACE).digest() != alike.digest()


def test_names_in_a_table_stay_as_they_are_written(tmp_path):
    names = ("007", "NA", "null", "1e3", "true", 'a "b", c')
    spec = {"requests": 60, "tenants": dict.fromkeys(names, 1)}
    requests = make_requests(spec, TRACE, 4)
    assert set(requests.tenant) == set(names)
    write_requests(requests, tmp_path / "list.csv")
    assert read_requests(tmp_path / "list.csv", TRACE).tenant == requests.tenant


def test_a_column_of_lists_is_refused(tmp_path):
    pq.write_table(pa.table({"decode_tokens": [[1], [2]]}), tmp_path / "list.parquet")
    with pytest.raises(WorkloadError, match=r"list\.parquet: column 'decode_tokens' must hold numbers\.$"):
        read_requests(tmp_path / "list.parquet", TRACE)


def test_bytes_that_are_no_text_are_refused_with_the_file(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"\xff\xfe,1\n")
    with pytest.raises(WorkloadError, match=r"list\.csv: the table cannot be read \("):
        read_requests(tmp_path / "list.csv", TRACE)


def test_a_number_in_yaml_may_have_an_exponent_without_a_point(tmp_path):
    (tmp_path / "spec.yaml").write_text("arrivals: {kind: poisson, rate_per_s: 25e-2}")
    plain = make_requests({"arrivals": {"kind": "poisson", "rate_per_s": 0.25}}, TRACE, 4)
    assert open_requests(tmp_path / "spec.yaml", TRACE, 4).digest() == plain.digest()


def test_columns_that_are_missing_come_from_the_trace(tmp_path):
    (tmp_path / "list.csv").write_text('decode_tokens,task\n4,"art, fine"\n5,law\n6,\n')
    requests = read_requests(tmp_path / "list.csv", TRACE)
    assert requests.trace_request.tolist() == [5, 3, 3]
    assert requests.prompt_tokens.tolist() == [30, 20, 20]
    assert requests.decode_tokens.tolist() == [4, 5, 6]
    assert requests.arrival_s.tolist() == [0, 0, 0]
    assert requests.task == ("art, fine", "law", "law")


def test_a_yaml_is_made_into_a_list_by_the_seed(tmp_path):
    (tmp_path / "spec.yaml").write_text(json.dumps(OPEN))
    assert open_requests(tmp_path / "spec.yaml", TRACE, 4).digest() == make_requests(OPEN, TRACE, 4).digest()
    assert open_requests(tmp_path / "spec.yaml", TRACE, 5).digest() != make_requests(OPEN, TRACE, 4).digest()


def test_lengths_can_come_from_a_file(tmp_path):
    (tmp_path / "lengths.csv").write_text("prompt_tokens,decode_tokens\n1,10\n2,20\n3,30\n")
    piece = {"kind": "file", "path": str(tmp_path / "lengths.csv"), "first": 1}
    made = make_requests({"requests": 2, "prompt_tokens": piece, "decode_tokens": piece}, TRACE)
    assert (made.prompt_tokens.tolist(), made.decode_tokens.tolist()) == ([2, 3], [20, 30])
    with pytest.raises(WorkloadError, match=r"3 requests from row 1 on must be there, but it has 3\.$"):
        make_requests({"requests": 3, "decode_tokens": piece}, TRACE)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("decode_token\n1\n", "column 'decode_token' is not known (there are: arrival_s, prompt_tokens,"),
        ("decode_tokens\n", "there must be at least one request."),
        ("decode_tokens\n4\n-1\n", "row 2, field 'decode_tokens' must be from 0 to 2,147,483,647 tokens, not -1."),
        ("decode_tokens\n4\n1.5\n", "row 2, field 'decode_tokens' must be a whole number."),
        ("decode_tokens\nfour\n", "column 'decode_tokens' must hold numbers."),
        ("trace_request\n3\n4\n", "row 2, field 'trace_request' must be the id of a request of the trace, not 4."),
        ("arrival_s\n0\n2\n1\n", "row 3, field 'arrival_s' must be no earlier than the row before, not 1.0."),
        ("arrival_s,task\n0,law\n,law\n", "row 2, field 'arrival_s' must be a time in seconds"),
        (
            "client\n0\n",
            "row 1, field 'think_s' must be from 0 to 1,000,000,000 seconds for a client's request, not nan.",
        ),
        ("slo_ttft_s\n0\n", "row 1, field 'slo_ttft_s' must be above 0 and at most 1,000,000,000 seconds, or empty"),
        ("prefix\nchat\n", "row 1, field 'prefix_tokens' must be from 1 to the tokens of prompt and answer with a pre"),
        ("prefix,prefix_tokens\n,4\n", "row 1, field 'prefix_tokens' must be from 1 to the tokens of prompt"),
        ("slo_tpot_s\nsoon\n", "column 'slo_tpot_s' must hold numbers."),
        ("task\nmaths\n", "task 'maths' must be one of the trace's (there are: art, fine, law)."),
        ("a,b\n1\n", "the table cannot be read ("),
        ("arrival_s\n2023-11-16 18:15:46\n", "column 'arrival_s' must hold numbers."),
        ("arrival_s\n1e300\n", "row 1, field 'arrival_s' must be from 0 to 1,000,000,000 seconds, not 1e+300."),
        ("decode_tokens\ntrue\n", "column 'decode_tokens' must hold numbers."),
        ("decode_tokens\n3000000000\n", "row 1, field 'decode_tokens' must be from 0 to 2,147,483,647 tokens, not 3"),
        (
            "prompt_tokens,decode_tokens\n2147483647,1\n",
            "row 1, field 'decode_tokens' must be at most 2,147,483,647 together with the prompt's tokens, not 1.",
        ),
    ],
)
def test_a_table_that_cannot_be_is_refused_in_one_sentence_with_the_file(tmp_path, text, sentence):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(WorkloadError) as caught:
        read_requests(path, TRACE)
    said = str(caught.value)
    assert said.startswith(f"{path}: {sentence}")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "spec.yaml",
            "a: [",
            "spec.yaml, line 1: this is not YAML (expected the node content, but found '<stream end>').",
        ),
        ("spec.yaml", "requests: 3\nrequests: 5", "spec.yaml, line 2: this is not YAML (key 'requests' twice)."),
        ("spec.yaml", "- 1", "spec.yaml: expected a mapping with the keys of a workload."),
        ("spec.yaml", "request: 1", "spec.yaml: unknown key 'request'; did you mean 'requests'?"),
        (
            "spec.yaml",
            "slo_ttft_s: 0",
            "spec.yaml: 'slo_ttft_s' must be above 0 seconds, or a mapping of tasks to such, not 0.",
        ),
        (
            "spec.yaml",
            "slo_ttft_s: {anatom: 1}",
            "spec.yaml: 'slo_ttft_s': no request has the task 'anatom'; did you mean 'anatomy'?",
        ),
        (
            "spec.yaml",
            "prefixes: {chat: 1}",
            "spec.yaml: 'prefix_tokens' must be a whole number from 1 for the prefix 'chat', not None.",
        ),
        (
            "spec.yaml",
            "prefix_tokens: 4",
            "spec.yaml: 'prefix_tokens' is given without 'prefixes', shares by name.",
        ),
        ("list.txt", "", "list.txt: expected a table ending in .csv or .parquet."),
        ("none.csv", None, "none.csv: there is no such file."),
    ],
)
def test_the_command_refuses_in_one_sentence(tmp_path, monkeypatch, capsys, name, text, sentence):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / name).write_text(text)
    assert main(["trace", "workload", name]) == 2
    assert capsys.readouterr().err == f"{sentence}\n"


def test_the_command_shows_and_writes_a_list(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(json.dumps({"requests": 80, "arrivals": OPEN["arrivals"], "decode_tokens": 50}))
    assert main(["trace", "workload", "spec.yaml", "--seed", "3", "--out", "list.csv"]) == 0
    text = capsys.readouterr().out
    trace = open_trace(data_path("gpt_oss_20b.parquet")).requests
    short = sum(2 * max(0, 50 - info.decode_tokens) for info in trace)  # each request is followed twice
    assert "80 requests, following 40 of the trace" in text
    assert f"decode tokens: 4,000, of which {short} " in text
    written = read_requests(tmp_path / "list.csv", trace)
    assert main(["trace", "workload", "list.csv", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["requests"] == 80
    assert summary["gap_s"]["mean"] == pytest.approx(float(np.diff(written.arrival_s).mean()))
