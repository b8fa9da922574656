"""Rewrites the tables of choices and of systems in docs/policies.md: python docs/_ext/policy_choices.py."""

from __future__ import annotations

from pathlib import Path

from experiments.catalogue import listed

PAGE = Path(__file__).resolve().parents[1] / "policies.md"
BEGIN, END = "<!-- written by docs/_ext/policy_choices.py -->", "<!-- end -->"


def with_choices(page: str) -> str:
    """The page with the tables that the installed choices make. The page must hold both marks."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    lines = ["", "", "| role | choice | what it does |", "|---|---|---|"]
    previous = ""
    for entry in listed("policies"):
        if entry["role"] == "host_cache":
            continue
        role = f"`{entry['role']}`" if entry["role"] != previous else ""
        previous = entry["role"]
        lines.append(f"| {role} | `{entry['name']}` | {_cell(entry['description'])} |")
    lines += ["", "| system | what it is |", "|---|---|"]
    lines += [f"| `{entry['name']}` | {_cell(entry['description'])} |" for entry in listed("systems")]
    return "\n".join([before + BEGIN, *lines[1:], "", END]) + after


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(with_choices(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
