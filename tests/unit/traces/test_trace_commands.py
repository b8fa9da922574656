"""What `moesim trace` writes, refuses and advises."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_files import LAYERS, LENGTHS, TOP_K, long_parquet, phone_route

from experiments.cli import main
from experiments.compose import compose_config
from traces import data_path, open_trace


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *arguments: str) -> str:
    assert main(["trace", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err.strip()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_no_command_writes_over_its_source(folder, capsys):
    shutil.copy(data_path("olmoe_1b_7b.parquet"), folder / "a.parquet")
    foreign = long_parquet(folder)
    before = [sha256(folder / "a.parquet"), sha256(foreign)]
    for arguments in (
        ("transform", "a.parquet", "./a.parquet", "--do", "crop 2"),
        ("synthesize", "--fit", "a.parquet", "--out", str(folder / "a.parquet")),
        ("import", foreign.name, str(foreign)),
    ):
        assert "this is the source, which would be lost; expected another file." in refused(capsys, *arguments)
    assert [sha256(folder / "a.parquet"), sha256(foreign)] == before


@pytest.mark.parametrize("name", ["tiny_moe", "mine.trace", ".", ""])
def test_a_name_that_a_run_would_not_take_for_a_file_is_refused(folder, capsys, name):
    sentence = f"DEST {name}: expected the name of a file that ends in .parquet."
    assert refused(capsys, "transform", "tiny_moe", name, "--do", "crop 2") == sentence
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("switch", ["--layers", "--experts", "--top-k"])
def test_a_shape_of_nothing_is_refused(capsys, switch):
    asked = ("synthesize", "--profile", "mixtral_8x7b", "--out", "x.parquet", switch, "0")
    assert refused(capsys, *asked) == f"{switch} is 0; expected at least 1."


def test_a_file_named_as_a_shipped_trace_is_the_one_that_is_read(folder, capsys):
    assert main(["trace", "transform", "olmoe_1b_7b", "olmoe_1b_7b.parquet", "--do", "crop 3"]) == 0
    assert main(["trace", "transform", "olmoe_1b_7b.parquet", "shorter.parquet", "--do", "crop 2"]) == 0
    assert open_trace("shorter.parquet").requests[0].tokens == 2
    both = ("transform", "shorter.parquet", "both.parquet", "--do", "concatenate olmoe_1b_7b.parquet")
    assert main(["trace", *both]) == 0
    assert [info.tokens for info in open_trace("both.parquet").requests] == [2, 3]
    path = compose_config(["trace=olmoe_1b_7b.parquet"]).trace.path
    assert open_trace(data_path(path)).requests[0].tokens == 3
    assert main(["show", "olmoe_1b_7b.parquet"]) == 0
    assert "1 requests, 3 routed tokens" in capsys.readouterr().out
    shipped = compose_config(["trace=olmoe_1b_7b"]).trace.path
    assert open_trace(data_path(shipped)).requests[0].tokens > 3


def test_what_came_out_is_advised_with_its_model(folder, capsys):
    assert main(["trace", "transform", "olmoe_1b_7b", "x.parquet", "--do", "crop 3"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "use it with: moesim run trace=x.parquet model=olmoe_1b_7b"
    assert main(["trace", "synthesize", "--profile", "mixtral_8x7b", "--requests", "1", "--out", "x.parquet"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "use it with: moesim run trace=x.parquet model=mixtral_8x7b"
    assert main(["trace", "import", phone_route(folder).name, "y.parquet"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "use it with: moesim run trace=y.parquet"


def test_a_list_that_outlasts_the_trace_is_advised_with_a_binding(folder, capsys):
    for tokens, binding in ((5, ""), (100_000, " workload.binding=resample")):
        (folder / "spec.yaml").write_text(f"decode_tokens: {tokens}")
        assert main(["trace", "workload", "spec.yaml", "--trace", "olmoe_1b_7b", "--out", "list.csv"]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.endswith(f"moesim run trace=olmoe_1b_7b workload.file=list.csv{binding}")


def test_a_trace_is_not_imported_again(folder, capsys):
    shutil.copy(data_path("olmoe_1b_7b.parquet"), folder / "a.parquet")
    sentence = "a.parquet: this is a trace already, so there is nothing to import."
    assert refused(capsys, "import", "a.parquet", "b.parquet") == sentence


def test_empty_slots_of_a_long_table_are_counted(folder, capsys):
    table = pq.read_table(long_parquet(folder))
    pq.write_table(table.slice(3), folder / "long.parquet")
    assert main(["trace", "import", "long.parquet", "x.parquet"]) == 0
    slots = sum(prompt + generated for prompt, generated in LENGTHS) * LAYERS * TOP_K
    assert open_trace("x.parquet").meta.notes == f"3 of {slots} slots have no row and are empty"


def test_columns_of_a_long_table_that_cannot_be_told_apart_are_refused(folder, capsys):
    table = pq.read_table(long_parquet(folder))
    pq.write_table(table.append_column("expert", table.column("expert")), folder / "long.parquet")
    assert refused(capsys, "import", "long.parquet", "x.parquet") == (
        "long.parquet: the names of its columns must differ."
    )
    pq.write_table(table.append_column("guess2", pa.array([0] * len(table))), folder / "long.parquet")
    assert refused(capsys, "import", "long.parquet", "x.parquet") == (
        "long.parquet: column 'guess2' must follow 'guess1', which is missing."
    )
