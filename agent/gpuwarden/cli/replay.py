"""`gpuwarden replay CAPTURE`: a recording through this version's engine."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from gpuwarden.capture import read_capture
from gpuwarden.cli.options import format_option
from gpuwarden.cli.output import print_json, progress
from gpuwarden.model.kernel_message import printable
from gpuwarden.replay import Replayed
from gpuwarden.replay import replay as put_through


@click.command(short_help="Put a recording through the engine again.")
@click.argument("capture", type=click.Path(path_type=Path))
@format_option()
def replay(capture: Path, output_format: str) -> None:
    """Put CAPTURE through this version's engine, and compare what it decides with what was decided then.

    Exit 0 for the same decisions, 1 for others: then what differs is shown (- captured, + replayed). What was under way
    when the capture began (hold times, rates over minutes) starts over, and may show as a later decision.

    \b
    Examples:
      gpuwarden replay strange.jsonl.gz
      gpuwarden replay strange.jsonl.gz --format json | jq .same
    """
    found = read_capture(capture)
    with progress(f"replaying {capture}"):
        replayed = put_through(found)
    if output_format == "json":
        print_json({"same": replayed.same, **msgspec.to_builtins(replayed), "diff": list(replayed.diff())})
    else:
        _show(replayed, capture)
    raise click.exceptions.Exit(0 if replayed.same else 1)


def _show(replayed: Replayed, capture: Path) -> None:
    for decision in replayed.now if replayed.same else ():
        click.echo(printable(decision.line()))
    for line in replayed.diff():
        click.echo(printable(line))
    if replayed.truncated:
        click.echo(f"gpuwarden: {capture} was cut off; replayed up to there", err=True)
    said = f"{len(replayed.now)} decisions, the same as captured" if replayed.same else "other decisions than captured"
    click.echo(f"{replayed.observations} observations: {said}")
