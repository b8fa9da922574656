"""What figures of proposed hardware compute and draw, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from experiments.figures.break_even import internal_and_link, speed_up_map
from experiments.figures.places import crossings, tokens_per_expert
from hwmodels import Platform
from tests.helpers import shipped, tiny_trace


def test_places_change_where_another_curve_is_lowest() -> None:
    tokens = np.arange(1, 11)
    near, copied = 2.0 * tokens, np.full(10, 9.0)  # 2, 4, 6, 8 < 9 <= 10
    assert crossings({"near": near, "copied": copied}, tokens) == [(5, "copied")]
    assert crossings({"near": near}, tokens) == []


def test_experts_of_a_batch_are_counted_layer_by_layer() -> None:
    one = [[0, 1], [2, 3]]  # a token's experts in two layers
    trace = tiny_trace([[one], [[[0, 2], [2, 3]]]])
    # layer 0: expert 0 twice, 1 and 2 once; layer 1: experts 2 and 3 twice
    assert sorted(tokens_per_expert(trace, 2, steps=1)) == [1, 1, 2, 2, 2]
    # a third request is the first one again, from another token on; it has but one
    assert sorted(tokens_per_expert(trace, 3, steps=1)) == [1, 2, 3, 3, 3]
    assert sorted(tokens_per_expert(trace, 1, steps=2)) == [1] * 8


@pytest.mark.parametrize(("platform", "inside", "link"), [("monde", 512e9, 32e9), ("trimoe", 1228.8e9, 63e9)])
def test_a_device_lies_where_its_memory_and_link_say(platform: str, inside: float, link: float) -> None:
    assert internal_and_link(Platform.from_mapping(shipped("platform", platform))) == (inside, link)


def test_the_line_of_break_even_runs_where_both_are_equally_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: figures.append(self))
    cells = [(1e9 * link, 1e9 * inside) for link in (1, 2, 4) for inside in (1, 2, 4)]
    table = pd.DataFrame(cells, columns=["link", "inside"]).assign(batch=1)
    table["speed_up"] = table["inside"] / table["link"]  # equal on the diagonal
    options = {"x": "link", "y": "inside", "words": ("link", "inside"), "panel": "batch"}
    speed_up_map(table, tmp_path / "x", devices={"in": (2e9, 4e9), "out": (8e9, 4e9)}, **options)
    axes = figures[0].axes[0]
    *_, line = [found for found in axes.collections if isinstance(found, QuadContourSet)]
    x, y = np.concatenate([path.vertices for path in line.get_paths()]).T
    assert x == pytest.approx(y)
    assert [text.get_text() for text in axes.texts] == ["in"]  # what lies outside of the map is not drawn
