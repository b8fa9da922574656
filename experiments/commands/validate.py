"""`moesim validate`: recorded runs of a machine, or recorded routing, beside what a model fitted to others makes."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.run import check_folder, write_table

PHONE_FILES = ("phone.md", "phone.png", "phone.pdf", "phone_tokens.csv", "oneplus_15r_calibrated.yaml")


def main(options: argparse.Namespace) -> int:
    """Write the tables of one kind of check to a folder that is new or its own."""
    if options.action == "synthesis":
        return synthesis(options)
    return phone(options)


def synthesis(options: argparse.Namespace) -> int:
    """Write the page and the tables of synthetic traces beside held-out requests."""
    from experiments.validation.synthesis import FILES, page, tables, validate

    folder = Path(options.out)
    check_folder(folder, FILES, mark=FILES[0])
    found = validate(options.trace, options.seed)
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
