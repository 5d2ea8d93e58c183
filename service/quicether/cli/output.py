"""How answers are shown: tables for people, JSON for scripts, again and again under --watch."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

T = TypeVar("T")

WIDTH: Final = 80
"""Columns that a table takes where no terminal says how many there are."""


def console() -> Console:
    """Return the console on standard output: colour on a terminal only, 80 columns elsewhere."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else WIDTH
    return Console(width=width, highlight=False, emoji=False, markup=False)


def emit(found: RenderableType) -> None:
    """Print a table; in a pipe without the blanks that fill its lines."""
    screen = console()
    if screen.is_terminal:
        screen.print(found)
        return
    with screen.capture() as captured:
        screen.print(found)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def show(
    arguments: argparse.Namespace,
    fetch: Callable[[], T],
    plain: Callable[[T], Any],
    render: Callable[[T], RenderableType],
) -> None:
    """Show what fetch returns once, or every `--watch` seconds until interrupted."""
    interval: float | None = getattr(arguments, "watch", None)
    if interval is None:
        found = fetch()
        if arguments.json:
            print_json(plain(found))
        else:
            emit(render(found))
        return
    if arguments.json:
        while True:
            print_json(plain(fetch()), lines=True)
            time.sleep(interval)
    from rich.live import Live

    with Live(render(fetch()), console=console(), auto_refresh=False, screen=False) as live:
        while True:
            time.sleep(interval)
            live.update(render(fetch()), refresh=True)


def print_json(value: Any, *, lines: bool = False) -> None:
    """Print JSON: indented, or as one line of a stream."""
    # In ASCII, so that it is JSON on whatever encoding standard output has.
    print(json.dumps(value, indent=None if lines else 2), flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> RenderableType:
    """Return a table of text; a cell may be a (text, style) pair. Long cells are folded."""
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        found.add_column(column, overflow="fold")
    for row in rows:
        found.add_row(
            *(Text(*cell) if isinstance(cell, tuple) else Text(str(cell)) for cell in row)
        )
    return found


def facts(pairs: Sequence[tuple[str, Any]]) -> RenderableType:
    """Return names and values, one pair a line; empty values are left out."""
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    found.add_column(style="bold", no_wrap=True)
    found.add_column(overflow="fold")
    for name, value in pairs:
        if value not in (None, "", ()):
            cell = Text(*value) if isinstance(value, tuple) else Text(str(value))
            found.add_row(name, cell)
    return found


def milliseconds(seconds: float | None) -> str:
    """Return a round-trip time for people."""
    return "" if seconds is None else f"{seconds * 1000:.1f} ms"


def size(count: int) -> str:
    """Return a number of bytes for people."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def ago(since: float, now: float) -> str:
    """Return how long ago a Unix time was, for people."""
    seconds = max(0, int(now - since))
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
