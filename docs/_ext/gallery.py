"""`make gallery`: runs every named figure and writes docs/gallery.md and docs/images/gallery/*.png."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.figures.definition import GALLERY, figure_file, figure_names, read_definition
from experiments.figures.kinds import KINDS
from experiments.figures.named import draw_figure
from experiments.results import NoiseWarning

DOCS = Path(__file__).resolve().parents[1]
IMAGES = DOCS / "images" / "gallery"
SCALE = 2 / 3  # of the 300 dots per inch that papers want; a screen needs fewer
SHOWN = "cache_policies"  # the definition that the page quotes
DATA = DOCS / "gallery_data"
LONG = ("systems_against_budget",)  # they take minutes, so that their rows are kept too

_HEAD = """\
# Gallery

A picture of every kind, each made by one command from the traces that moesim ships; this page is written by
`make gallery`. Where a text does not say otherwise, gpt-oss-20b decodes recorded answers to MMLU questions on an RTX
3060, 4 GiB of which hold experts. All numbers are predictions of the model ([fidelity](fidelity.md)).

A command runs what its figure needs on all cores, in seconds unless said otherwise, and writes a PNG, a PDF and the
drawn data as CSV to `runs/figures/`. Finished runs are kept and not repeated.

```sh
moesim list figures
moesim figure cache_budget
moesim figure cache_budget platform=rtx_4090 workload.requests=8 --out figures   # overrides go to every run
```
"""
_OWN = """\
## A figure of one's own

A figure is a YAML of some ten lines; a path takes the place of the name. `moesim figure {shown}` draws this one:

```yaml
{definition}```

`runs` are overrides as of `moesim sweep`, and several values are swept. `sweeps` names further sets of them, each run
on top of `runs`; the name stands in column `name`. `width` is `column` (3.3 inches) or `page` (7). `draw` has the
keywords of the kind, listed below; columns are those of [results](results.md).

Shipped choices have a name in figures (`lru` is LRU) and sizes their unit (`cache_gib` 2 is 2 GiB); `names: {{lru: LRU
of ours}}` says otherwise, or names what is one's own. The CSV keeps names and numbers as the runs have them. Where
runs differ in more than what a figure draws, the label says in what, or the figure is refused with the column's name.

With `--from FOLDER`, which may be repeated, the figure is drawn from runs and sweeps that are there already and
nothing is run; `--where platform=rtx_3060`, which may be repeated too, keeps those of its points. Kinds that need
steps, loads of experts or a configuration take the folders of runs; a timeline needs a run in memory.

```sh
moesim sweep name=mine policy/cache=lru,lfu,s3fifo cache_gib=2,4 workload.requests=10
moesim figure cache_policies --from runs/sweep/mine
```

"""


def page() -> str:
    """The text of docs/gallery.md."""
    parts = [_HEAD]
    for name in figure_names():
        file = figure_file(name)
        title = name.replace("_", " ").capitalize()
        picture = f"![{title}]({(IMAGES / name).relative_to(DOCS).as_posix()}.png)"
        source = f"[{file.name}](../{file.relative_to(DOCS.parent).as_posix()})"
        text = read_definition(file).description
        if name in LONG:
            source += f"; it takes minutes, so that its data are kept: [{name}.csv]({DATA.name}/{name}.csv)"
        parts.append(f"## {title}\n\n{picture}\n\n{text}\n\n```sh\nmoesim figure {name}\n```\n\nDefinition: {source}\n")
    definition = (GALLERY / f"{SHOWN}.yaml").read_text(encoding="utf-8")
    parts.append(_OWN.format(shown=SHOWN, definition=definition) + "\n".join(_kinds()) + "\n")
    return "\n".join(parts)


def _kinds() -> list[str]:
    """For each kind what it draws, the shipped figures of it, and its keywords."""
    used: dict[str, list[str]] = {}
    for name in figure_names():
        file = figure_file(name)
        link = f"[{file.name}](../{file.relative_to(DOCS.parent).as_posix()})"
        used.setdefault(read_definition(file).kind, []).append(link)
    lines = ["## Kinds"]
    for name, kind in KINDS.items():
        text = (inspect.getdoc(kind.prepare) or "").splitlines()[0]
        lines += ["", f"### {name}", "", f"{text} Example: {', '.join(used[name])}", ""]
        lines += ["| keyword of `draw` | default | meaning |", "|---|---|---|"]
        lines += [f"| `{keyword}` | {default} | {meaning} |" for keyword, default, meaning in keywords(kind.prepare)]
    return lines


def keywords(prepare: Callable[..., Any]) -> list[tuple[str, str, str]]:
    """(keyword, default as in YAML, meaning) of a kind, from its signature and the lines of its docstring."""
    lines = (inspect.getdoc(prepare) or "").splitlines()
    meanings = dict(match.groups() for line in lines if (match := re.fullmatch(r"(\w+) {2,}(\S.*)", line)))
    known = [p for p in inspect.signature(prepare).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return [(p.name, _default(p.default), meanings[p.name]) for p in known]


def _default(value: Any) -> str:
    return "required" if value is inspect.Parameter.empty else f"`{json.dumps(value)}`".replace('"', "")


def shrink(source: Path, target: Path) -> None:
    """A smaller copy of a picture in 256 colours that are all near; the same picture gives the same bytes."""
    from PIL import Image

    with Image.open(source) as picture:
        size = (round(picture.width * SCALE), round(picture.height * SCALE))
        small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    target.parent.mkdir(parents=True, exist_ok=True)
    few = small.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    few.save(target, optimize=True)


def main(names: list[str]) -> None:
    """Draw the named figures (none: all) and write the page."""
    for name in names or figure_names():
        with tempfile.TemporaryDirectory() as folder:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoiseWarning)  # the figure shows the interval
                files = draw_figure(name, Path(folder)).files
            shrink(files[0], IMAGES / f"{name}.png")
            if name in LONG:
                DATA.mkdir(exist_ok=True)
                shutil.copyfile(files[-1], DATA / f"{name}.csv")
        print(f"drew {name}")
    for old in sorted(IMAGES.glob("*.png")):
        if old.stem not in figure_names():
            old.unlink()
    (DOCS / "gallery.md").write_text(page(), encoding="utf-8")
    print(f"wrote {(DOCS / 'gallery.md').as_posix()}")


if __name__ == "__main__":
    main(sys.argv[1:])
