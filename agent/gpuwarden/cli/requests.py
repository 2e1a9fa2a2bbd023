"""What an operator says to remediation: `hold`, `release`, `pause`, `resume`, `approve`, `cancel`.

Each is a row in the journal, allowed by file permission, and valid while the daemon is down.
"""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import click

from gpuwarden.cli.client import reach
from gpuwarden.cli.options import Duration, config_option, format_option
from gpuwarden.cli.output import cell, print_json, progress
from gpuwarden.errors import DaemonUnreachableError, JournalError

_why = click.option("--why", default="", help="A word for whoever reads the history.")


def ask(verb: str, body: dict[str, Any], config_path: Path | None, output_format: str) -> None:
    """Ask the daemon, or leave the request in its journal where none answers, and say which."""
    config, daemon = reach(config_path)
    body = {**body, "by": getpass.getuser()}
    try:
        with progress("asking the daemon"):
            answer = daemon.post(verb, body)
    except DaemonUnreachableError as error:
        answer = {"request": left_in_journal(Path(config.state_dir), verb, body, error)}
    if output_format == "json":
        print_json(answer)
    elif "request" in answer:
        click.echo(f"No daemon answers: request {answer['request']} waits in the journal until it starts.")
    else:
        about = answer.get("case") or answer.get("uuid") or "the host"
        click.echo(f"{verb}: {cell(about)}; what came of it is in `gpuwarden events --kind request`")


def left_in_journal(state_dir: Path, verb: str, body: dict[str, Any], why: DaemonUnreachableError) -> int:
    """Return the number of the request. Raises: `why`, with why the journal does not take it either."""
    from gpuwarden.journal import submit_request

    try:
        return submit_request(state_dir, verb, body)
    except JournalError as error:
        raise DaemonUnreachableError(f"{why}\nThe request cannot wait in its journal either: {error}") from error


@click.command(short_help="Touch a GPU no more, until it is released.")
@click.argument("gpu", metavar="GPU|host")
@_why
@config_option
@format_option()
def hold(gpu: str, why: str, config_path: Path | None, output_format: str) -> None:
    """Have gpuwarden do nothing about GPU any more; it goes on watching. `host` holds everything on this host.

    \b
    Examples:
      gpuwarden hold 3 --why "vendor looks at it"
      gpuwarden hold host
    """
    ask("hold", {"gpu": gpu, "why": why}, config_path, output_format)


@click.command(short_help="Let a held GPU go.")
@click.argument("gpu", metavar="GPU|host")
@_why
@config_option
@format_option()
def release(gpu: str, why: str, config_path: Path | None, output_format: str) -> None:
    """Take a hold off GPU. A case that waits for a person there ends, and the host is given back to work.

    Only what gpuwarden isolated itself is given back: an admin's own drain stays.

    \b
    Examples:
      gpuwarden release 3 --why "board replaced"
    """
    ask("release", {"gpu": gpu, "why": why}, config_path, output_format)


@click.command(short_help="Act no more, for a while or until resumed.")
@click.option(
    "--for",
    "seconds",
    type=Duration(1.0),
    default=None,
    metavar="T",
    help="How long, such as 30m. Without: until resumed.",
)
@_why
@config_option
@format_option()
def pause(seconds: float | None, why: str, config_path: Path | None, output_format: str) -> None:
    """Have gpuwarden begin nothing on this host. It goes on watching, and gives back what it took.

    \b
    Examples:
      gpuwarden pause --for 8h --why "night shift"
    """
    ask("pause", {"seconds": seconds, "why": why}, config_path, output_format)


@click.command(short_help="End a pause.")
@_why
@config_option
@format_option()
def resume(why: str, config_path: Path | None, output_format: str) -> None:
    """Let gpuwarden act again.

    \b
    Examples:
      gpuwarden resume
    """
    ask("resume", {"why": why}, config_path, output_format)


@click.command(short_help="Let a case climb its present rung.")
@click.argument("case")
@_why
@config_option
@format_option()
def approve(case: str, why: str, config_path: Path | None, output_format: str) -> None:
    """Approve what CASE waits for. The next rung, should this one not help, asks again.

    `gpuwarden status` shows the open cases and what each waits for.

    \b
    Examples:
      gpuwarden approve 0f1c6a52-c3
    """
    ask("approve", {"case": case, "why": why}, config_path, output_format)


@click.command(short_help="End a case; nothing more is done for it.")
@click.argument("case")
@_why
@config_option
@format_option()
def cancel(case: str, why: str, config_path: Path | None, output_format: str) -> None:
    """Cancel CASE. What it took is given back; where something was done already, a person has to release the GPU.

    \b
    Examples:
      gpuwarden approve 0f1c6a52-c3

    \b
    Examples:
      gpuwarden cancel 0f1c6a52-c3
    """
    ask("cancel", {"case": case, "why": why}, config_path, output_format)
