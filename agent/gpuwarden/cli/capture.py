"""`gpuwarden capture OUT`: what the daemon observes, in a file."""

from __future__ import annotations

import gzip
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import click

from gpuwarden.cli.client import Daemon, reach
from gpuwarden.cli.options import Duration, config_option, format_option, spell
from gpuwarden.cli.output import print_json
from gpuwarden.errors import DaemonUnreachableError, GpuwardenError, InputError

_FETCH_SECONDS = 1.0
_DECIDED = '{"type":"Decided"'


@click.command(short_help="Record what the daemon observes.")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--for", "seconds", type=Duration(1.0, 86_400.0), default="1m", show_default=True, metavar="T", help="How long."
)
@click.option("--mask/--no-mask", default=True, show_default=True, help="Replace UUIDs, serials and the host's name.")
@config_option
@format_option()
def capture(*, out: Path, seconds: float, mask: bool, config_path: Path | None, output_format: str) -> None:
    """Record for T what the running daemon observes and decides, into the new file OUT.

    Ctrl-C ends it early; the file is good up to there. A name ending in .gz is compressed (about a tenth). The file can
    be given to others: boards and host carry other names in it, unless --no-mask says otherwise. Kernel lines are in
    it as they are, names of processes included.

    \b
    Examples:
      gpuwarden capture strange.jsonl.gz --for 10m
      gpuwarden replay strange.jsonl.gz
    """
    _, daemon = reach(config_path)
    answer = daemon.post("capture", {"action": "start", "mask": mask})
    number = answer["number"]
    begun = time.monotonic()
    try:
        with _new_file(out) as file:
            click.echo(f"capturing for {spell(seconds)} into {out}; Ctrl-C ends it early", err=True)
            counts = _record(daemon, file, answer["lines"], number, begun + seconds)
    except InputError:
        with suppress(GpuwardenError):
            daemon.post("capture", {"action": "stop", "number": number})
        raise
    lasted = time.monotonic() - begun
    if output_format == "json":
        print_json({"file": str(out), "seconds": round(lasted, 1), "masked": mask, **counts})
    else:
        size = out.stat().st_size / 1000
        click.echo(f"{out}: {counts['observations']} observations in {spell(lasted)}, {size:,.0f} kB")


def _record(daemon: Daemon, file: IO[bytes], first: str, number: int, until: float) -> dict[str, int]:
    """Fetch until the time is up or Ctrl-C; return how many observations and steps with decisions there were."""
    counts = {"observations": -1, "decisions": 0}  # the first line is the header
    lines, action = first, "fetch"
    try:
        with _interrupted() as ended:
            while True:
                file.write(lines.encode())
                decided = sum(line.startswith(_DECIDED) for line in lines.split("\n"))
                counts["decisions"] += decided
                counts["observations"] += lines.count("\n") - decided
                if action == "stop":
                    return counts
                left = until - time.monotonic()
                interrupted = ended.wait(max(0.0, min(left, _FETCH_SECONDS)))
                action = "stop" if interrupted or left <= _FETCH_SECONDS else "fetch"
                lines = daemon.post("capture", {"action": action, "number": number})["lines"]
    except DaemonUnreachableError as error:
        raise DaemonUnreachableError(f"{error}\nThe file is good as far as it goes.") from error


@contextmanager
def _interrupted() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C sets, instead of ending the process in the middle of a line."""
    ended = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: ended.set())
    try:
        yield ended
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a new file that only this user can read. Raises: InputError where it exists or cannot be written."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as raw:
            if path.suffix != ".gz":
                yield raw
                return
            with gzip.GzipFile(fileobj=raw, mode="wb") as packed:
                plain: Any = packed
                yield plain
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
