"""Sphinx: the guides of this folder, and pages made from the program itself (docs/_ext/pages.py)."""

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import pages  # noqa: E402
from sphinx import addnodes  # noqa: E402

from simulator.result import VERSION  # noqa: E402

project = "moesim"
author = "The moesim authors"
copyright = "The moesim authors"
release = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_ext"]

myst_heading_anchors = 3
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False

html_theme = "furo"
html_title = f"moesim {release}"
html_copy_source = False
html_show_sphinx = False


def plain_docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Our docstrings are plain text."""
    lines[:] = pages.rst(lines)


def plain_signature(app: Any, what: str, name: str, thing: Any, options: Any, arguments: str, returns: str) -> Any:
    """What must be given has no default; OmegaConf marks it with '???'."""
    return (arguments.replace(" = '???'", ""), returns) if arguments else None


def plain_field(app: Any, domain: str, kind: str, content: Any) -> None:
    """The same for the fields themselves."""
    for signature in content.parent.findall(addnodes.desc_signature):
        for part in list(signature.findall(addnodes.desc_annotation)):
            if part.astext() == " = '???'":
                part.parent.remove(part)


def plain_bases(app: Any, name: str, thing: Any, options: Any, bases: list[Any]) -> None:
    """That a class is an object goes without saying."""
    bases[:] = [base for base in bases if base is not object]


def links(app: Any, page: str, source: list[str]) -> None:
    """Links to files outside this folder, which are no pages, become downloads."""
    folder = (HERE / page).parent
    if folder != HERE / "_generated":
        source[0] = pages.outward(source[0], folder, folder)


def setup(app: Any) -> None:
    """Write the generated pages, then read docstrings as plain text."""
    pages.write_pages(HERE / "_generated")
    app.connect("source-read", links)
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("object-description-transform", plain_field)
    app.connect("autodoc-process-bases", plain_bases)
    app.connect("autodoc-process-docstring", plain_docstring)
