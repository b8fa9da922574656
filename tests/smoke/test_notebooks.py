"""The notebooks are stored without outputs and run from top to bottom, each in a folder of its own."""

import re
import shlex
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

from experiments.sweep.points import points

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}

FORGET = """\
for name in set(globals()) - get_ipython().user_ns_hidden.keys():  # those of the notebook before this one
    del globals()[name]
"""


def read(path):
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert [path.name[:2] for path in NOTEBOOKS] == ["1_", "2_", "3_", "4_", "5_"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_what_a_run_leaves_in_it(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata == KERNEL
    for cell in notebook.cells:
        assert cell.metadata == {}, cell.source
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.source


@pytest.fixture(scope="module")
def kernel():
    """One kernel for all notebooks, as imports and tables of kernels take longer than most cells."""
    manager, client = start_new_kernel(kernel_name="python3")
    client.stop_channels()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_writes_only_below_runs(path, kernel, tmp_path):
    notebook = read(path)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(f"{FORGET}\n%cd -q {tmp_path}"))
    NotebookClient(notebook, km=kernel, timeout=120).execute()  # raises CellExecutionError with cell and traceback
    assert [item.name for item in tmp_path.iterdir()] == ["runs"]
    assert [item.name for item in (tmp_path / "runs").iterdir()] == [path.stem]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_and_commands_of_a_notebook_lead_somewhere(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (path.parent / link).exists(), link
    for line in "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.S)).replace("\\\n", "").splitlines():
        program, command, *overrides = shlex.split(line)
        assert (program, command in ("run", "sweep", "propose")) == ("moesim", True), line
        if command == "propose":  # its own test runs it
            continue
        assert len(points(overrides)) > (command == "sweep"), line


def test_the_device_of_a_notebook_is_the_example():
    *_, path = NOTEBOOKS
    cells = [cell.source for cell in read(path).cells if cell.source.startswith("%%writefile")]
    assert [cell.partition("\n")[2] for cell in cells] == [
        (Path(__file__).parents[2] / "examples" / "ndp_box.yaml").read_text().rstrip("\n")
    ]
