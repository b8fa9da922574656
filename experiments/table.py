"""A run's summary as a small table, with units a reader expects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from simulator.words import CAUSES, percent, seconds, size, summary_rows, time_shares

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["CAUSES", "percent", "seconds", "size", "summary_rows", "summary_table", "time_shares"]


def summary_table(entry: dict[str, Any], cfg: DictConfig) -> Table:
    """The table that `moesim run` prints."""
    from rich.table import Table

    title = f"{entry['name']}: {entry['system']}, {cfg.model.get('name')} on {cfg.platform.get('name')}"
    table = Table(title=title, show_header=False, title_justify="left", title_style="bold")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for what, how_much in summary_rows(entry):
        table.add_row(what, how_much)
    return table
