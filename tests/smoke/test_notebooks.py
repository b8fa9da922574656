"""The notebooks are stored without outputs and run from top to bottom, each in a folder of its own."""

import re
import shlex
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from experiments.sweep.points import points

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def read(path):
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert [path.name[:2] for path in NOTEBOOKS] == ["1_", "2_", "3_", "4_"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_what_a_run_leaves_in_it(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata == KERNEL
    for cell in notebook.cells:
        assert cell.metadata == {}, cell.source
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_writes_only_below_runs(path, tmp_path):
    notebook = read(path)
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises CellExecutionError with the cell and its traceback
    assert [item.name for item in tmp_path.iterdir()] == ["runs"]
    assert [item.name for item in (tmp_path / "runs").iterdir()] == [path.stem]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_and_commands_of_a_notebook_lead_somewhere(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (path.parent / link).exists(), link
    for line in "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.S)).replace("\\\n", "").splitlines():
        program, command, *overrides = shlex.split(line)
        assert (program, command in ("run", "sweep")) == ("moesim", True), line
        assert len(points(overrides)) > (command == "sweep"), line
