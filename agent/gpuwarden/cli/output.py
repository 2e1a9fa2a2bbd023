"""What is printed and how: JSON, tables, and a line on stderr while something takes long.

Text from the driver, the kernel log or another process is escaped before it meets a terminal. No colour where stdout
is no terminal.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from gpuwarden.model.kernel_message import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PROGRESS_AFTER_SECONDS = 2.0
_WIDE_COLUMNS = 10_000  # no terminal, no edge: whoever reads a pipe gets whole lines
COLOURS = {
    "healthy": "green",
    "ok": "green",
    "degraded": "yellow",
    "warning": "yellow",
    "unhealthy": "red",
    "critical": "red",
    "unknown": "magenta",
}


def print_json(data: Any, *, lines: bool = False) -> None:
    """Write data as JSON: indented, or as one line for streams. Structs and enums are what msgspec makes of them."""
    raw = msgspec.json.encode(data)
    click.echo((raw if lines else msgspec.json.format(raw, indent=2)).decode())


def console(*, stderr: bool = False) -> Console:
    """Return a console that interprets nothing in what it is given."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    tty = stream.isatty()
    return Console(
        file=stream,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=not tty,
        width=None if tty else _WIDE_COLUMNS,
        color_system="auto" if tty else None,
    )


def table(*headers: str, right: Sequence[str] = ()) -> Table:
    """Return a table without lines; the columns named in `right` are numbers."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        made.add_column(header, justify="right" if header in right else "left", overflow="fold")
    return made


def print_table(made: Table, out: Console | None = None) -> None:
    """Print a table; without a terminal, no line ends in blanks."""
    target = out or console()
    if target.is_terminal:
        target.print(made)
        return
    with target.capture() as captured:
        target.print(made)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def cell(value: object) -> str:
    """Return what a table shows for a value: `-` for nothing, and nothing that could steer a terminal."""
    return "-" if value is None or value == "" else printable(str(value))


def coloured(word: str) -> Any:
    """Return a state or severity as rich text in its colour."""
    from rich.text import Text

    return Text(printable(word), style=COLOURS.get(word, ""))


def clock_time(unix_seconds: float) -> str:
    """Return a local time to the second, as ISO 8601 with a blank."""
    return datetime.fromtimestamp(unix_seconds).isoformat(" ", "seconds")


def evidence_text(evidence: dict[str, Any]) -> str:
    """Return evidence as `name=value` pairs."""
    return printable(" ".join(f"{name}={_short(value)}" for name, value in evidence.items()))


def _short(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "-"
        case float():
            return f"{value:g}"
        case str() if not value or " " in value:
            return f'"{value}"'
    return str(value)


@contextmanager
def progress(doing: str, *, after_seconds: float = _PROGRESS_AFTER_SECONDS) -> Iterator[None]:
    """Say on stderr what is being waited for, once it has taken longer than two seconds."""
    done = threading.Event()

    def say() -> None:
        if not done.wait(after_seconds):
            click.echo(f"{doing} ...", err=True)

    waiter = threading.Thread(target=say, name="progress", daemon=True)
    waiter.start()
    try:
        yield
    finally:
        done.set()
        waiter.join(1.0)
