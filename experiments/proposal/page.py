"""Markdown to one HTML file that needs nothing beside it: pictures become data URIs."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

_STYLE = """\
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .6rem; vertical-align: top; }
img { width: 100%; max-width: 52rem; } code { background: #f3f3f3; padding: 0 .2em; }
"""
_SOURCE = re.compile(r'<img src="([^"]+)"')


def html_page(markdown: str, folder: Path, title: str) -> str:
    """The page of a Markdown text whose pictures are SVG files below `folder`."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = _SOURCE.sub(lambda found: f'<img src="{_data_uri(folder / html.unescape(found[1]))}"', body)
    head = f'<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n<style>\n{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}</body>\n</html>\n'


def _data_uri(path: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
