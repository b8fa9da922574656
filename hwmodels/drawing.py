"""A platform as a picture: devices as boxes in columns, links as lines with their bandwidth."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from hwmodels.markup import block, folded, table
from hwmodels.units import format_quantity

if TYPE_CHECKING:
    from hwmodels.device import Device, Link
    from hwmodels.spec import Platform

_COLUMNS = {"ssd": 0, "dram": 1, "cpu": 1, "switch": 2, "gpu": 3}
_COLOURS = {
    "gpu": "#cfe3f2",
    "cpu": "#fbe5c0",
    "ndp": "#f3d3e1",
    "dram": "#d3ecdf",
    "ssd": "#e6e6e6",
    "switch": "#ffffff",
}
_LINES: dict[str, Any] = {
    "pcie": {"edgecolor": "#333333", "linewidth": 1.2},
    "cxl": {"edgecolor": "#56b4e9", "linewidth": 1.6},
    "nvlink": {"edgecolor": "#009e73", "linewidth": 2.0},
    "bus": {"edgecolor": "#333333", "linewidth": 2.0},
    "network": {"edgecolor": "#333333", "linewidth": 1.2, "linestyle": "--"},
}
_NONE = "-"
_BOX_IN = (1.75, 0.66)  # width and height of a device
_STEP_IN = (3.1, 1.28)  # from one column or row to the next
MOST_LABELS = 6  # of links that are alike, beyond which one stands for all; six GPU pairs among four workers
_BULGE_IN = 0.75  # how far a curved line stands off the boxes it passes
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "moesim"}
Point = tuple[float, float]


def platform_html(platform: Platform) -> str:
    """The picture, a table of devices and one of links, and the sources of their numbers."""
    devices = table(
        [
            [name, ", ".join([device.kind, *_roles(platform, name)]), *_numbers(device)]
            for name, device in platform.devices.items()
        ],
        ["device", "kind and role", "memory", "memory bandwidth", "peak"],
    )
    links = table(
        [
            [link.name, link.kind, f"{link.a} - {link.b}", _rate(link.bandwidth_bytes_per_s)]
            + [_rate(link.effective_bytes_per_s), format_quantity(link.latency_s, "s") if link.latency_s else _NONE]
            for link in platform.links
        ],
        ["link", "kind", "between", "per direction", "achieved", "latency"],
    )
    sources = [[name, device.source] for name, device in platform.devices.items()]
    sources += [[link.name, link.source] for link in platform.links]
    return block(
        f"{platform.name}: {platform.description}" if platform.description else platform.name,
        platform_svg(platform),
        devices + links,
        folded("where the numbers are from", table(sources)),
        note="Bandwidths of links hold per direction.",
    )


def platform_svg(platform: Platform) -> str:
    """The picture as an SVG element; the same platform gives the same text."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        figure = platform_figure(platform)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = stream.getvalue()
    return text[text.index("<svg") :]


def platform_figure(platform: Platform) -> Any:
    """The picture as a Matplotlib figure, made without pyplot; data coordinates are inches."""
    from matplotlib.figure import Figure

    places = _places(platform)
    curves = _curves(platform, places)
    (left, bottom), (right, top) = _corners(places, curves)
    figure = Figure(figsize=(right - left, top - bottom), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top))
    axes.set_axis_off()
    for name, device in platform.devices.items():
        if device.memory:  # a CPU computes from it
            axes.plot(*zip(places[name], places[device.memory], strict=True), color="#888888", ls=":", lw=1.2, zorder=1)
        _draw_device(axes, platform, device, places[name])
    labels = _labels(platform)
    for link, curve in curves:
        _draw_link(axes, link, curve, labels.get(link.name, ""))
    return figure


def _places(platform: Platform) -> dict[str, Point]:
    """The centre of each device: a column per kind, drives left and GPUs right, a CPU or NDP above its memory."""
    order = list(platform.devices)
    columns: dict[int, list[str]] = {}
    for name, device in sorted(
        platform.devices.items(),
        key=lambda item: (order.index(item[1].memory or item[0]), item[1].kind not in ("cpu", "ndp")),
    ):
        kind = platform.memory_of(name).kind if device.kind == "ndp" else device.kind
        columns.setdefault(_COLUMNS[kind], []).append(name)
    return {
        name: (_STEP_IN[0] * number, _STEP_IN[1] * ((len(columns[column]) - 1) / 2 - row))
        for number, column in enumerate(sorted(columns))
        for row, name in enumerate(columns[column])
    }


def _curves(platform: Platform, places: dict[str, Point]) -> list[tuple[Link, tuple[Point, Point, Point]]]:
    """Each link with start, control point and end of its line, which keeps clear of the boxes between."""
    siblings: dict[frozenset[str], list[str]] = {}
    for link in platform.links:
        siblings.setdefault(frozenset((link.a, link.b)), []).append(link.name)
    curves = []
    for link in platform.links:
        names = siblings[frozenset((link.a, link.b))]
        shift = names.index(link.name) - (len(names) - 1) / 2
        curves.append((link, _curve(places[link.a], places[link.b], shift, list(places.values()))))
    return curves


def _curve(a: Point, b: Point, shift: float, boxes: list[Point]) -> tuple[Point, Point, Point]:
    (width, height), (column, row) = _BOX_IN, _STEP_IN
    (x1, y1), (x2, y2) = sorted((a, b), key=lambda place: (place[0], -place[1]))
    if x1 == x2 and y1 - y2 < 1.5 * row:  # one above the other
        x = x1 + 1.1 * shift
        return (x, y1 - height / 2), (x, (y1 + y2) / 2), (x, y2 + height / 2)
    if x1 == x2:  # round the right of the boxes between
        reach = x1 + width / 2 + 2 * _BULGE_IN * ((y1 - y2) / row - 1) + shift
        return (x1 + width / 2, y1), (reach, (y1 + y2) / 2), (x1 + width / 2, y2)
    y1, y2 = y1 + 0.45 * shift, y2 + 0.45 * shift
    middle = (y1 + y2) / 2
    if x2 - x1 > 1.5 * column:  # over the boxes between
        top = max(y for x, y in boxes if x1 < x < x2) + height / 2 + _BULGE_IN + 0.45 * shift
        middle = 2 * top - middle
    return (x1 + width / 2, y1), ((x1 + x2) / 2, middle), (x2 - width / 2, y2)


def _corners(places: dict[str, Point], curves: list[tuple[Link, tuple[Point, Point, Point]]]) -> tuple[Point, Point]:
    """Lower left and upper right of everything, with a margin (inches)."""
    half_w, half_h = _BOX_IN[0] / 2, _BOX_IN[1] / 2
    points = [(x + dx, y + dy) for x, y in places.values() for dx in (-half_w, half_w) for dy in (-half_h, half_h)]
    for _, curve in curves:
        x, y = _middle(curve)
        points += [(x - 0.6, y - 0.25), (x + 0.6, y + 0.25)]
    xs, ys = zip(*points, strict=True)
    return (min(xs) - 0.1, min(ys) - 0.1), (max(xs) + 0.1, max(ys) + 0.1)


def _middle(curve: tuple[Point, Point, Point]) -> Point:
    (x1, y1), (x2, y2), (x3, y3) = curve
    return (x1 + 2 * x2 + x3) / 4, (y1 + 2 * y2 + y3) / 4


def _labels(platform: Platform) -> dict[str, str]:
    """Name of a link -> what is written on it. Of many links only the first of its kind has a label, for all alike."""
    alike: dict[tuple[str, float, float], list[Link]] = {}
    for link in platform.links:
        alike.setdefault((link.kind, link.bandwidth_bytes_per_s, link.effective_bytes_per_s), []).append(link)
    labels = {}
    for links in alike.values():
        few = len(links) <= MOST_LABELS
        for link in links if few else links[:1]:
            what = _short(link.name) if few else f"{len(links)} like {_short(link.name)}"
            achieved = f"\nachieves {_rate(link.effective_bytes_per_s)}" if link.efficiency < 1 else ""
            labels[link.name] = f"{what} ({link.kind})\n{_rate(link.bandwidth_bytes_per_s)}{achieved}"
    return labels


def _draw_link(axes: Any, link: Link, curve: tuple[Point, Point, Point], label: str) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    path = Path(curve, [Path.MOVETO, Path.CURVE3, Path.CURVE3])
    look = _LINES[link.kind]
    axes.add_patch(PathPatch(path, facecolor="none", zorder=2, **look))
    if not label:
        return
    axes.text(
        *_middle(curve),
        label,
        ha="center",
        va="center",
        size=7,
        linespacing=1.15,
        parse_math=False,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        zorder=5,
    )


def _draw_device(axes: Any, platform: Platform, device: Device, place: Point) -> None:
    from matplotlib.patches import FancyBboxPatch

    (x, y), (width, height), pad = place, _BOX_IN, 0.06
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2 + pad, y - height / 2 + pad),
            width - 2 * pad,
            height - 2 * pad,
            boxstyle=f"round,pad={pad}",
            facecolor=_COLOURS[device.kind],
            edgecolor="#333333",
            linewidth=1.6 if device.name in platform.workers else 0.8,
            zorder=3,
        )
    )
    memory, rate, peak = _numbers(device)
    what = [device.kind] if device.kind != device.name else []
    numbers = [rate if device.memory else f"{memory}, {rate}", peak]
    lines = [_short(device.name), ", ".join([*what, *_roles(platform, device.name)])]
    lines += [line for line in numbers if _NONE not in line.split(", ")]
    lines = [line for line in lines if line]
    top = y + 0.148 * (len(lines) - 1) / 2
    for number, line in enumerate(lines):
        look = {"size": 7} if number else {"size": 8, "weight": "bold"}
        axes.text(x, top - 0.148 * number, line, ha="center", va="center", zorder=4, parse_math=False, **look)


def _roles(platform: Platform, name: str) -> list[str]:
    """What a device is for, beside its kind."""
    roles = (
        ("worker", platform.workers),
        ("home of the experts", [platform.home]),
        ("may run experts", [platform.cpu, *platform.units]),
    )
    return [role for role, names in roles if name in names]


def _numbers(device: Device) -> tuple[str, str, str]:
    """Capacity, memory bandwidth and peak rate in words."""
    capacity, rate = device.memory_capacity_bytes, device.memory_read_bytes_per_s
    peaks = device.peak_flop_per_s
    dtype = next((dtype for dtype in ("bf16", "fp16", "fp32", *peaks) if dtype in peaks), None)
    return (
        format_quantity(capacity, "bytes") if capacity else _NONE,
        _rate(rate) if rate else _NONE,
        f"{format_quantity(peaks[dtype], 'flop_per_s')} {dtype}" if dtype else _NONE,
    )


def _rate(bytes_per_s: float) -> str:
    return format_quantity(bytes_per_s, "bytes_per_s")


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"
