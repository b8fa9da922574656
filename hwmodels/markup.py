"""Small pieces of HTML for notebooks; every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table(rows: Iterable[Sequence[object]], header: Sequence[str] = ()) -> str:
    """An HTML table, cells escaped, left-aligned; without `header` the first column is set in bold.

    >>> table([["gpu0", "<fast>"]]).count("&lt;fast&gt;")
    1
    """
    head = f"<thead><tr>{''.join(_cell(text, 'th') for text in header)}</tr></thead>" if header else ""
    first = "td" if header else "th"
    body = "".join(
        f"<tr>{''.join(_cell(text, 'td' if place else first) for place, text in enumerate(row))}</tr>" for row in rows
    )
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _cell(text: object, tag: str) -> str:
    return f'<{tag} style="text-align:left">{escape(str(text))}</{tag}>'


def block(title: str, *parts: str, note: str = "") -> str:
    """A titled block: `parts` are HTML and stand side by side where there is room; title and note are escaped."""
    inner = "".join(f"<div>{part}</div>" for part in parts if part)
    lead = f"<div><strong>{escape(title)}</strong></div>"
    tail = f"<div><small>{escape(note)}</small></div>" if note else ""
    side_by_side = "display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start"
    return f'<div>{lead}<div style="{side_by_side}">{inner}</div>{tail}</div>'


def folded(title: str, part: str) -> str:
    """`part` (HTML) behind a title (escaped) that opens it."""
    return f"<details><summary>{escape(title)}</summary>{part}</details>"
