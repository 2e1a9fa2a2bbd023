"""`gpuwarden events`: what happened on this host, from the daemon or, while it is down, from its journal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from gpuwarden.cli.client import Daemon, reach
from gpuwarden.cli.options import Moment, config_option, format_option
from gpuwarden.cli.output import cell, clock_time, evidence_text, print_json, progress
from gpuwarden.errors import DaemonUnreachableError, JournalError

_FOLLOW_SECONDS = 1.0
_LARGEST = 10_000
KINDS = ("finding", "incident", "case", "action", "request")


@click.command(short_help="What happened on this host.")
@click.option("--kind", type=click.Choice(KINDS), help="Only events of this kind.")
@click.option("--since", type=Moment(), metavar="T", help="15m, 2d (ago), 2026-03-01, 2026-03-01T14:30, @UNIXTIME.")
@click.option("--limit", type=click.IntRange(1, _LARGEST), default=1000, show_default=True, help="The newest so many.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@config_option
@format_option()
def events(
    *, kind: str | None, since: float | None, limit: int, follow: bool, config_path: Path | None, output_format: str
) -> None:
    """Show what happened, the oldest first.

    While no daemon runs, its journal is read instead (this needs the right to read it). With json, every event is one
    line.

    \b
    Examples:
      gpuwarden events --since 2h
      gpuwarden events --kind incident --follow
      gpuwarden events --since 2026-03-01 --format json | jq 'select(.severity == "critical")'
    """
    config, daemon = reach(config_path)
    try:
        with progress("asking the daemon"):
            found = daemon.get("events", kind=kind, since=since, limit=limit)
    except DaemonUnreachableError as error:
        found = from_journal(Path(config.state_dir), error, kind=kind, since=since, limit=limit)
        if follow:
            click.echo("gpuwarden: no daemon answers: this is its journal; what comes is shown once it is up", err=True)
    _print(found, output_format)
    if follow:
        try:
            for batch in _following(daemon, kind, found):
                _print(batch, output_format)
        except KeyboardInterrupt:
            return


def from_journal(state_dir: Path, why: DaemonUnreachableError, **asked: Any) -> list[dict[str, Any]]:
    """Return events of the journal as the API has them. Raises: `why`, with what is wrong with the journal too."""
    from gpuwarden.journal import read_events

    try:
        with progress("reading the journal"):
            found = read_events(state_dir, **asked)
    except JournalError as error:
        raise DaemonUnreachableError(f"{why}\nIts journal cannot be read either: {error}") from error
    events: list[dict[str, Any]] = msgspec.to_builtins(list(found))
    return events


def _following(daemon: Daemon, kind: str | None, shown: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield new events as they come. A daemon that goes away is waited for, and said once."""
    newest = shown[-1]["time"] if shown else time.time()
    at_newest = [each for each in shown if each["time"] == newest]
    gone = False
    while True:
        sys.stdout.flush()
        time.sleep(_FOLLOW_SECONDS)
        try:
            found = daemon.get("events", kind=kind, since=newest, limit=_LARGEST)
        except DaemonUnreachableError as error:
            if not gone:
                click.echo(f"gpuwarden: {str(error).splitlines()[0]}; waiting for it", err=True)
            gone = True
            continue
        gone = False
        fresh = [each for each in found if each not in at_newest]
        if not fresh:
            continue
        later = max(each["time"] for each in found)
        at_newest = [each for each in found if each["time"] == later]
        newest = later
        yield fresh


def _print(found: list[dict[str, Any]], output_format: str) -> None:
    for each in found:
        if output_format == "json":
            print_json(each, lines=True)
        else:
            click.echo(line_of(each))


def line_of(event: dict[str, Any]) -> str:
    """Return one event as a line: time, severity, kind, state, name, GPU, evidence."""
    where = "host" if event["gpu"] is None else f"gpu{event['gpu']}"
    drill = " DRILL" if event.get("drill") else ""
    words = (
        clock_time(event["time"]),
        f"{cell(event['severity']):<8}",
        f"{cell(event['kind']):<8}",
        f"{cell(event['state']):<8}",
        f"{where:<5}",
        cell(event["name"]) + drill,
        evidence_text(event.get("evidence") or {}),
    )
    return "  ".join(words).rstrip()
