"""Ten domains of real text, from Debian bookworm packages and the Python standard library.

Texts are read from a cache folder and never shipped; ``CORPORA.md`` names packages, versions and licences.
"""

from __future__ import annotations

import gzip
import html
import re
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.explain import ConfigError

DOMAIN_BYTES = 9_000_000  # at most so much of one domain
DOCUMENT_BYTES = 60_000  # at most so much of one document
PIECE_BYTES = 12_000  # length of the pieces of a work that is one file
LEAST_BYTES = 1_500  # shorter documents are left out
HELD_OUT_EVERY = 25  # of the documents of a domain, one in so many is held out whole
PACKAGES = (
    "bible-kjv",
    "bible-kjv-text",
    "anarchism",
    "linux-doc-6.1",
    "manpages",
    "manpages-dev",
    "manpages-de",
    "debian-reference-de",
    "manpages-fr",
    "debian-reference-fr",
    "perl-doc",
    "linux-headers-6.1.0-*-common",
    "dict-foldoc",
    "dict-jargon",
)


def read_domains(cache: Path) -> dict[str, list[str]]:
    """The documents of each domain, in a fixed order; packages that are not in `cache` are downloaded by apt-get.

    Raises ConfigError if a package can neither be found nor downloaded.
    """
    roots = {name: _unpacked(name, cache) for name in PACKAGES}
    library = Path(sysconfig.get_paths()["stdlib"])
    sources: dict[str, Iterator[str]] = {
        "bible": _bible(roots["bible-kjv"], roots["bible-kjv-text"]),
        "essay": _each(roots["anarchism"], r"html/[^/]+\.html$", _plain_html),
        "linuxdoc": _each(roots["linux-doc-6.1"], r"/Documentation/(?!translations/).*\.rst(\.gz)?$", str),
        "man": _all(_each(roots[name], r"/man/man\d/", _plain_roff) for name in ("manpages", "manpages-dev")),
        "german": _translated(roots, "de"),
        "french": _translated(roots, "fr"),
        "perl": _each(roots["perl-doc"], r"\.pod$", str),
        "python": _each(library, r"^(?!.*/(test|tests|idlelib|site-packages|lib2to3|pydoc_data)/).*\.py$", str),
        "c": _each(roots["linux-headers-6.1.0-*-common"], r"/include/.*\.h$", str),
        "glossary": _all(_pieces(_read(path)) for path in _dictionaries(roots)),
    }
    return {name: _capped(documents) for name, documents in sources.items()}


def split(documents: list[str]) -> tuple[list[str], list[str]]:
    """(training, held out) documents; one in `HELD_OUT_EVERY` is held out."""
    held = documents[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]
    kept = [text for number, text in enumerate(documents) if number % HELD_OUT_EVERY != HELD_OUT_EVERY // 2]
    return kept, held


def _unpacked(name: str, cache: Path) -> Path:
    folder = cache / name.replace("*", "x")
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        wanted = name.replace("-*-", "-[0-9]+-") + "$"
        try:
            found = subprocess.run(["apt-cache", "search", "-n", f"^{wanted}"], capture_output=True, text=True)
            exact = [line.split()[0] for line in found.stdout.splitlines()]
            exact.sort(key=lambda package: [int(number) for number in re.findall(r"\d+", package)])
            package = exact[-1] if exact else name
            subprocess.run(["apt-get", "download", "-q", package], cwd=cache, check=True, capture_output=True)
            file = sorted(cache.glob(f"{package}_*.deb"))[-1]
            subprocess.run(["dpkg-deb", "-x", file, folder], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError, IndexError):
            raise ConfigError(
                f"{folder}: the Debian package {name} is not there and 'apt-get download' did not bring it;"
                " expected a Debian bookworm with its main archive, or the unpacked package in this folder."
            ) from None
    return folder


def _each(root: Path, pattern: str, clean: Callable[[str], str]) -> Iterator[str]:
    """The files below `root` whose path matches, by path, cleaned."""
    for path in sorted(root.rglob("*")):
        if re.search(pattern, path.as_posix()) and path.is_file() and not path.is_symlink():
            yield clean(_read(path))


def _all(groups: Iterator[Iterator[str]]) -> Iterator[str]:
    for group in groups:
        yield from group


def _translated(roots: dict[str, Path], language: str) -> Iterator[str]:
    yield from _each(roots[f"debian-reference-{language}"], rf"\.{language}\.html$", _plain_html)
    yield from _each(roots[f"manpages-{language}"], r"/man\d/", _plain_roff)


def _dictionaries(roots: dict[str, Path]) -> Iterator[Path]:
    for name in ("dict-foldoc", "dict-jargon"):
        yield from sorted(roots[name].rglob("*.dict.dz"))


def _bible(program: Path, data: Path) -> Iterator[str]:
    """The whole text with its verse labels, read out by the package's own program."""
    command: list[str | Path] = [program / "usr/bin/bible", "-l100", "-p", data / "usr/lib", "Gen1:1-Rev22:21"]
    done = subprocess.run(command, capture_output=True, check=True)
    return _pieces(done.stdout.decode("latin-1"))


def _read(path: Path) -> str:
    raw = path.read_bytes()
    if path.suffix in (".gz", ".dz"):
        raw = gzip.decompress(raw)
    return raw.decode("utf-8", errors="ignore")


def _pieces(text: str) -> Iterator[str]:
    """Pieces of about `PIECE_BYTES`, cut at line ends."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + PIECE_BYTES)
        end = len(text) if end < 0 else end + 1
        yield text[start:end]
        start = end


def _plain_html(text: str) -> str:
    text = re.sub(r"(?is)<(script|style|head)\b.*?</\1>", "", text)
    text = re.sub(r"(?i)<(p|br|li|h\d|tr|div|dt|dd|pre)\b[^>]*>", "\n", text)
    return re.sub(r"\n\s*\n+", "\n\n", html.unescape(re.sub(r"<[^>]*>", "", text))).strip()


def _plain_roff(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if line.startswith(('.\\"', "'\\\"", ".ig", ".de", ".so")):
            continue
        line = re.sub(r"^[.'](\w+)\s*", lambda match: "\n" if match[1] in ("SH", "SS", "PP", "TP", "P") else "", line)
        line = re.sub(r"\\f(\[\w*\]|\(..|.)|\\&|\\/|\\,|\\[|^]|\\s[-+]?\d", "", line)
        line = re.sub(r"\\\((..)|\\\[(\w\w)\]", lambda match: _ROFF.get(match[1] or match[2], ""), line)
        lines.append(line.replace("\\-", "-").replace("\\e", "\\").replace("\\ ", " ").replace('"', ""))
    return re.sub(r"\n\s*\n+", "\n\n", "\n".join(lines)).strip()


_ROFF = {"aq": "'", "dq": '"', "lq": "“", "rq": "”", "em": "—", "bu": "•", "co": "©", "mc": "µ", "ha": "^"}


def _capped(documents: Iterator[str]) -> list[str]:
    """Documents long enough, each cut at `DOCUMENT_BYTES`, evenly thinned to `DOMAIN_BYTES` in all."""
    kept = [text[:DOCUMENT_BYTES] for text in documents if len(text) >= LEAST_BYTES]
    total = sum(len(text) for text in kept)
    if total <= DOMAIN_BYTES:
        return kept
    share = DOMAIN_BYTES / total
    return [text for number, text in enumerate(kept) if int((number + 1) * share) > int(number * share)]
