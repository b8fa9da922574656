"""Damaged files of foreign formats: one sentence, no traceback, no file; or with salvage what was whole."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.cli import main
from tests.unit.traces import foreign_files as foreign
from traces import TraceError, open_trace
from traces.importers import import_trace

Damage = Callable[[bytes], bytes]


def swap(old: str, new: str, count: int = 1) -> Damage:
    def change(raw: bytes) -> bytes:
        assert old.encode() in raw, old
        return raw.replace(old.encode(), new.encode(), count)

    return change


def line(number: int, change: Callable[[list[bytes]], list[bytes]]) -> Damage:
    """Replace a line by others."""

    def changed(raw: bytes) -> bytes:
        lines = raw.splitlines(keepends=True)
        lines[number : number + 1 or None] = change([lines[number]])
        return b"".join(lines)

    return changed


def document(change: Callable[[dict], object]) -> Damage:
    def changed(raw: bytes) -> bytes:
        value = json.loads(raw)
        change(value)
        return json.dumps(value).encode()

    return changed


def table(change: Callable[[dict], object], metadata: dict | None = None) -> Damage:
    """Change the columns of a Parquet table."""

    def changed(raw: bytes) -> bytes:
        found = pq.read_table(io.BytesIO(raw))
        columns = found.to_pydict()
        change(columns)
        buffer = io.BytesIO()
        kept = found.schema.metadata if metadata is None else metadata
        pq.write_table(pa.table(columns).replace_schema_metadata(kept), buffer)
        return buffer.getvalue()

    return changed


def arrays(change: Callable[[dict], object]) -> Damage:
    """Change the arrays of an .npz, or the array of an .npy under the name "array"."""

    def changed(raw: bytes) -> bytes:
        found, buffer = np.load(io.BytesIO(raw)), io.BytesIO()
        values = {"array": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
        change(values)
        if isinstance(found, np.ndarray):
            np.save(buffer, values["array"])
        else:
            np.savez(buffer, **values)
        return buffer.getvalue()

    return changed


def put(name: str, value: object, *where: int) -> Callable[[dict], object]:
    """Set an element of a nested field."""

    def change(record: dict) -> None:
        if not where:
            record[name] = value
            return
        target = record[name]
        for index in where[:-1]:
            target = target[index]
        target[where[-1]] = value

    return change


def repeat(columns: dict) -> None:
    for values in columns.values():
        values.append(values[-1])


def float_array(name: str) -> Damage:
    def change(values: dict) -> None:
        values[name] = values[name].astype(float)
        values[name][0, 0, 0] = np.nan

    return arrays(change)


GENERIC: dict[str, Damage] = {
    "truncated": lambda raw: raw[: len(raw) * 3 // 5],
    "empty": lambda raw: b"",
    "binary garbage": lambda raw: bytes(range(256)) * 8,
    "not UTF-8": lambda raw: raw[: len(raw) // 2] + b"\xff\xfe\xc3" + raw[len(raw) // 2 + 3 :],
}
DUPLICATED = line(-1, lambda lines: lines * 2)
ESFT_LINE = "\t".join(["1", "2", "3", "4", "5", "6"])

SPECIFIC: dict[str, dict[str, Damage]] = {
    "long_parquet": {
        "wrong type": table(lambda columns: columns.update(expert=[str(expert) for expert in columns["expert"]])),
        "id out of range": table(put("expert", 8, 5)),
        "duplicated row": table(repeat),
        "NaN": table(lambda columns: columns.update(expert=[float("nan"), *columns["expert"][1:]])),
        "missing header": table(lambda columns: None, metadata={}),
        "wrong counts": table(put("slot", 2, 5)),
        "not UTF-8": table(lambda columns: None, metadata={"num_experts": b"\xff\xfe"}),
    },
    "phone_route": {
        "wrong type": swap("0,0,0,0,0,0,0.75", "0,0,0,0,0,zero,0.75"),
        "id out of range": swap("0,0,0,0,0,0,0.75", "0,0,0,0,0,8,0.75"),
        "duplicated row": DUPLICATED,
        "NaN": swap("0,0,0,0,0,0,0.75", "0,0,0,0,0,0,nan"),
        "missing header": line(0, lambda lines: []),
        "wrong counts": line(20, lambda lines: []),
    },
    "layer_lists": {
        "wrong type": swap('"tok": 3', '"tok": "3"'),
        "id out of range": swap("[[0, 3]", "[[0, 8]"),
        "duplicated row": DUPLICATED,
        "NaN": swap("[[0, 3]", "[[0, NaN]"),
        "missing header": swap('"layers"', '"Layers"', 3),
        "wrong counts": swap("[[1, 4], ", "["),
    },
    "simllm": {
        "wrong type": swap('"token_index": 1', '"token_index": 1.0'),
        "id out of range": swap('"expert_ids": [0, 3]', '"expert_ids": [0, 8]'),
        "duplicated row": line(3, lambda lines: lines * 2),
        "NaN": swap('"expert_ids": [0, 3]', '"expert_ids": [0, NaN]'),
        "missing header": line(0, lambda lines: []),
        "wrong counts": swap('"prefill_dispatch_count": 9', '"prefill_dispatch_count": 8'),
    },
    "stratamoe": {
        "wrong type": document(put("selections", "two", 4, 1, 0)),
        "id out of range": document(put("selections", 8, 4, 1, 0)),
        "duplicated row": document(lambda value: value["selections"].append(value["selections"][-1])),
        "NaN": document(put("selections", float("nan"), 4, 1, 0)),
        "missing header": document(lambda value: value.pop("expertsPerLayer")),
        "wrong counts": document(put("tokens", 8)),
    },
    "vllm_npz": {
        "wrong type": arrays(put("offsets", np.array(["0", "5", "10", "15"]))),
        "id out of range": arrays(put("routed_experts", 8, 4, 1, 0)),
        "duplicated row": arrays(
            lambda values: values.update(routed_experts=np.concatenate([values["routed_experts"]] * 2))
        ),
        "NaN": float_array("routed_experts"),
        "missing header": arrays(lambda values: values.pop("num_experts")),
        "wrong counts": arrays(put("offsets", 12, 3)),
    },
    "vllm_npy": {
        "wrong type": arrays(lambda values: values.update(array=values["array"].astype(str))),
        "id out of range": arrays(lambda values: values["array"].__setitem__((4, 1, 0), 8)),
        "duplicated row": arrays(lambda values: values.update(array=np.concatenate([values["array"]] * 2))),
        "NaN": float_array("array"),
        "missing header": lambda raw: raw[10:],
        "wrong counts": arrays(lambda values: values.update(array=values["array"][:-1])),
        "truncated": lambda raw: raw[:-20],
    },
    "vllm_responses": {
        "wrong type": swap('"prompt_tokens": 2', '"prompt_tokens": "2"'),
        "id out of range": swap("[2, 5]", "[2, 8]"),
        "duplicated row": swap('"prompt_routed_experts": [', '"prompt_routed_experts": [[[2, 5], [3, 6], [4, 7]], '),
        "NaN": swap("[2, 5]", "[2, NaN]"),
        "missing header": swap('"choices"', '"Choices"', 3),
        "wrong counts": swap('"completion_tokens": 3', '"completion_tokens": 5'),
    },
    "esft": {
        "wrong type": swap("0.3", "much"),
        "id out of range": line(0, lambda lines: [b"64\t" + lines[0].partition(b"\t")[2]]),
        "duplicated row": DUPLICATED,
        "NaN": swap("0.3", "nan"),
        "missing header": swap("\t\t", "\t"),
        "wrong counts": line(1, lambda lines: [b"1\t" + lines[0]]),
    },
}
# what a cut leaves, by whole requests or, of a single request, tokens; the others need their end or have but one part
SALVAGED = {"phone_route": 2, "layer_lists": 7, "simllm": 1, "vllm_npy": 2, "vllm_responses": 1, "esft": 2}
CASES = [(name, damage) for name in foreign.BUILDERS for damage in (*GENERIC, *SPECIFIC[name])]


def damaged(name: str, damage: str, folder: Path) -> Path:
    """Build a file and damage it; of a folder its last file."""
    path = foreign.BUILDERS[name](folder)
    target = path / "expert_weights_26.txt" if path.is_dir() else path
    target.write_bytes((GENERIC | SPECIFIC[name])[damage](target.read_bytes()))
    return path


def test_every_format_is_damaged_in_ten_ways() -> None:
    assert all(len(GENERIC | SPECIFIC[name]) == 10 for name in foreign.BUILDERS)


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_damage_ends_in_one_sentence_and_leaves_no_file(tmp_path, name, damage) -> None:
    path, place = damaged(name, damage, tmp_path), tmp_path / "results"
    place.mkdir()
    with pytest.raises(TraceError) as caught:
        import_trace(path, place / "out.parquet", **foreign.OPTIONS.get(name, {}))
    message = str(caught.value)
    names = [path.name, "capture-metadata.json", "routed.json", "expert_weights_"]
    assert any(message.startswith(start) for start in names)
    assert message.endswith(".")
    assert "\n" not in message
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("name", foreign.BUILDERS)
def test_of_a_cut_file_salvage_keeps_what_is_whole_and_says_so(tmp_path, name) -> None:
    options = foreign.OPTIONS.get(name, {})
    (tmp_path / "whole").mkdir()
    whole = import_trace(foreign.BUILDERS[name](tmp_path / "whole"), tmp_path / "whole.parquet", **options)
    path = damaged(name, "truncated", tmp_path)
    if name not in SALVAGED:
        with pytest.raises(TraceError, match=r"cut|damaged"):
            import_trace(path, tmp_path / "out.parquet", salvage=True, **options)
        return
    trace = import_trace(path, tmp_path / "out.parquet", salvage=True, **options)
    assert "salvaged, " in trace.meta.notes
    assert (len(trace) if name != "layer_lists" else trace.requests[0].tokens) == SALVAGED[name]
    for ours, theirs in zip(trace, whole, strict=False):
        assert ours.experts.tolist() == theirs.experts[: ours.tokens].tolist()
    complete = [ours.tokens == theirs.tokens for ours, theirs in zip(trace, whole, strict=False)]
    assert all(complete) or name in ("layer_lists", "phone_route")


@pytest.mark.parametrize("name", foreign.BUILDERS)
def test_salvage_leaves_a_sound_file_alone(tmp_path, name) -> None:
    path, options = foreign.BUILDERS[name](tmp_path), foreign.OPTIONS.get(name, {})
    import_trace(path, tmp_path / "plain.parquet", **options)
    import_trace(path, tmp_path / "salvaged.parquet", salvage=True, **options)
    assert (tmp_path / "plain.parquet").read_bytes() == (tmp_path / "salvaged.parquet").read_bytes()


@pytest.mark.parametrize("name", foreign.BUILDERS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_changed_give_a_sound_trace_or_a_refusal(tmp_path, name, data) -> None:
    folder = tmp_path / "case"
    if not folder.exists():
        folder.mkdir()
        (tmp_path / "sound").write_text(str(foreign.BUILDERS[name](folder)))
    path = Path((tmp_path / "sound").read_text())
    target = path / "expert_weights_13.txt" if path.is_dir() else path
    sound = target.read_bytes()
    raw = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    target.write_bytes(bytes(raw))
    try:
        trace = import_trace(path, tmp_path / "out.parquet", **foreign.OPTIONS.get(name, {}))
        open_trace(trace.path, verify=True)
    except TraceError as error:
        message = str(error)
    else:
        message = ""
    target.write_bytes(sound)
    assert message in ("", f"{message.rstrip('.')}.")


def test_the_command_says_it_on_one_line_and_salvages_on_request(tmp_path, capsys) -> None:
    path, out = damaged("simllm", "truncated", tmp_path), tmp_path / "out.parquet"
    assert main(["trace", "import", str(path), str(out)]) == 2
    said = capsys.readouterr()
    assert said.err == "sim.jsonl: line 14: the text must be complete JSON, but it is cut or damaged.\n"
    assert not out.exists()
    assert main(["trace", "import", str(path), str(out), "--salvage"]) == 0
    assert "1 requests, 5 tokens" in capsys.readouterr().out
