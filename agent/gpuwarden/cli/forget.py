"""`gpuwarden forget GPU`: a card left for good."""

from __future__ import annotations

from pathlib import Path

import click

from gpuwarden.cli.client import reach
from gpuwarden.cli.options import config_option, format_option
from gpuwarden.cli.output import cell, print_json, progress
from gpuwarden.cli.requests import left_in_journal
from gpuwarden.errors import DaemonUnreachableError


@click.command(short_help="A GPU left for good: drop it from the inventory.")
@click.argument("gpu", metavar="GPU")
@config_option
@format_option()
def forget(gpu: str, config_path: Path | None, output_format: str) -> None:
    """Drop GPU from this host's inventory, so that it is no longer missed.

    GPU is an index, uuid, serial number or PCI address, as `gpuwarden status` shows them. A card that still answers is
    not forgotten. While the daemon is down, the request is kept in its journal and taken when it starts.

    \b
    Examples:
      gpuwarden forget 3
      gpuwarden forget GPU-3ce3a4a5-58ac-4f07-b4b5-3ee9d7a1b3f3
    """
    config, daemon = reach(config_path)
    try:
        with progress("asking the daemon"):
            answer = daemon.post("forget", {"gpu": gpu})
    except DaemonUnreachableError as error:
        answer = {"request": left_in_journal(Path(config.state_dir), "forget", {"gpu": gpu}, error), "gpu": gpu}
    if output_format == "json":
        print_json(answer)
    elif "request" in answer:
        click.echo(f"No daemon answers: request {answer['request']} waits in the journal until it starts.")
    else:
        click.echo(f"forgotten: GPU {cell(answer.get('gpu'))} ({cell(answer.get('forgotten'))})")
