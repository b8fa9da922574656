"""`moesim validate`: recordings, and published claims, beside what the simulator makes of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.run import check_folder, write_table

if TYPE_CHECKING:
    from experiments.validation.published.validate import Report

PHONE_FILES = ("phone.md", "phone.png", "phone.pdf", "phone_tokens.csv", "oneplus_15r_calibrated.yaml")


def main(options: argparse.Namespace) -> int:
    """Write the tables of one kind of check to a folder that is new or its own."""
    if options.action in ("serving-rows", "runtime-rows"):
        from experiments.commands import validate_serving

        return validate_serving.main(options) if options.action == "serving-rows" else validate_serving.runs(options)
    if options.action == "synthesis":
        return synthesis(options)
    if options.action == "phone":
        return phone(options)
    return claims(options)


def claims(options: argparse.Namespace) -> int:
    """Run what a set of published claims needs, and write its page, table and figures; or fit, or pages of systems."""
    from experiments.commands.sweep import INTERRUPTED, SOME_FAILED, live
    from experiments.explain import ConfigError
    from experiments.validation.published.reading import claim_sets
    from experiments.validation.published.validate import fit_engines, validate, write

    folder = Path(options.folder).expanduser() if options.action == "claims" else claim_sets()[options.action]
    if options.pages is not None:
        from experiments.validation.published.system_page import write_pages

        pages = write_pages(Path(options.pages).expanduser(), folder.parent)
        print(f"{len(pages)} pages written to {options.pages}")
        return 0
    name, out = folder.resolve().name, Path(options.out).expanduser()
    kept = Path(options.runs).expanduser() if options.runs else Path("runs") / "validation" / "runs" / name
    if options.workers is not None and options.workers < 0:
        raise ConfigError(f"--workers is {options.workers}; expected 0 (no other process) or more.")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out={out}: there is a file of that name; expected a folder.")
    try:
        if options.fit_engines:
            fit_engines(folder, options.only, print)
            return 0
        with live(options.quiet) as report:
            done = validate(folder, kept, options.only, options.workers, report)
    except KeyboardInterrupt:
        print("interrupted; the finished runs are kept, and the same command goes on from there.", file=sys.stderr)
        return INTERRUPTED
    files = write(name, folder, done, out)
    if not options.quiet:
        _print_claims(done)
        print(f"written to {out.as_posix()}: {', '.join(file.relative_to(out).as_posix() for file in files)}")
    return SOME_FAILED if done.failed else 0


def _print_claims(done: Report) -> None:
    """Each claim with its verdict, then the counts."""
    from experiments.validation.published.text import number, span

    for o in done.outcomes:
        if not o.runs:
            continue
        label = o.part.id + (f" [{o.cell.row}, {o.cell.column}]" if o.cell else "")
        ours = o.error or ("-" if o.value is None else number(o.value, o.part.unit))
        said = "fitted" if o.fitted else "shown" if o.inside is None else "in" if o.inside else "OUT"
        said += "" if o.counted or o.fitted or o.inside is None else " (shown)"
        print(
            f"{o.paper.name}: {label}: published {span(o.published, o.part.unit)}, ours {ours},"
            f" band {span(o.band, o.part.unit)}: {said}"
        )
    for kind in ("asserted", "scored"):
        own = [o for o in done.outcomes if o.counted and o.weight == kind]
        print(f"{kind}: {sum(bool(o.inside) for o in own)} of {len(own)} in band")
    before = f", {done.reused} of them from before" if done.reused else ""
    print(f"{done.runs} runs{before}, {done.failed} failed")


def synthesis(options: argparse.Namespace) -> int:
    """Write the page and the tables of synthetic traces beside held-out requests."""
    from experiments.validation.synthesis import FILES, page, tables, validate

    folder = Path(options.out)
    check_folder(folder, FILES, mark=FILES[0])
    found = validate(options.trace, options.seed, options.seeds)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILES[0]).write_text(page(found), encoding="utf-8")
    for name, table in zip(FILES[1:], tables(found), strict=True):
        write_table(table, folder / name)
    print(f"written to {folder}")
    return 0


def phone(options: argparse.Namespace) -> int:
    """Write the report, its figure, the tokens and the calibrated platform to a folder that is new or its own."""
    from experiments.validation.phone import calibrated_platform, validate
    from experiments.validation.phone_figure import draw
    from experiments.validation.phone_report import page

    folder = Path(options.out)
    check_folder(folder, PHONE_FILES, mark="phone.md")
    found = validate()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "phone.md").write_text(page(found), encoding="utf-8")
    draw(found, folder / "phone")
    write_table(found.table(), folder / "phone_tokens.csv")
    (folder / "oneplus_15r_calibrated.yaml").write_text(calibrated_platform(found.constants), encoding="utf-8")
    for compared in found.comparisons:
        known = "fitted" if compared.run is found.training else "predicted"
        measured_s, predicted_s = compared.measured_s("wall_s"), compared.predicted_s("wall_s")
        print(
            f"{compared.run.name:<12}{measured_s * 1e3:6.1f} ms measured {predicted_s * 1e3:6.1f} ms {known:<10}"
            f"{compared.error():+7.1%}"
        )
    print(f"written to {folder}")
    return 0
