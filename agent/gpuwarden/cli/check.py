"""`gpuwarden check`: one look at this host; the verdict is the exit code."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from gpuwarden.cli.client import Daemon, reach
from gpuwarden.cli.options import config_option, format_option
from gpuwarden.cli.output import cell, coloured, console, evidence_text, print_json, print_table, progress, table
from gpuwarden.cli.status import show
from gpuwarden.cli.verdict import Reason, Verdict, nvml_blind, reasons_of, refused_readings, verdict_of
from gpuwarden.config import Config
from gpuwarden.errors import GpuwardenError

_BUDGET_SECONDS = 10.0
_ASK_SECONDS = 2.0
_SPARE_SECONDS = 2.0  # of the budget: start of the process, giving everything back


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `check` found; its fields are the JSON output."""

    verdict: str
    code: int
    source: str  # "daemon" or "look"
    seconds: float
    reasons: tuple[Reason, ...]
    not_seen: tuple[str, ...]
    status: dict[str, Any]


@click.command(short_help="One look at this host; the verdict is the exit code.")
@click.option("--expect-gpus", type=click.IntRange(0, 1024), metavar="N", help="Critical where fewer than N answer.")
@click.option(
    "--fail-on",
    type=click.Choice(["critical", "warning", "unknown"]),
    default="critical",
    show_default=True,
    help="From which verdict on the exit code is not 0.",
)
@config_option
@format_option()
def check(expect_gpus: int | None, fail_on: str, config_path: Path | None, output_format: str) -> None:
    """Look at this host once, for at most 10 seconds, and say how it is.

    A running daemon is asked first; without one, driver, PCI bus and kernel log are read here. No root and no
    configuration are needed: what cannot be seen is said, and how to allow it.

    \b
    The verdict: 0 ok, 1 warning, 2 critical, 3 unknown (what was not read in time is unknown). The exit code is
    0 below --fail-on, else the verdict's number. A drill counts like the real thing, and is called one.

    \b
    Examples:
      gpuwarden check
      gpuwarden check --expect-gpus 8 --fail-on warning     as a health check before a job
      gpuwarden check --format json | jq .reasons
    """
    config, daemon = reach(config_path, deadline_seconds=_ASK_SECONDS)
    with progress("looking at this host"):
        report = examine(config, daemon, expect_gpus)
    if output_format == "json":
        print_json(report)
    else:
        _show(report)
    raise click.exceptions.Exit(exit_code(report.code, fail_on))


def exit_code(verdict: int, fail_on: str) -> int:
    """Return 0 for a verdict below `fail_on`, else its number."""
    return verdict if verdict >= Verdict[fail_on.upper()] else 0


def examine(config: Config, daemon: Daemon, expect_gpus: int | None) -> Report:
    """Ask the daemon, or look; at most ten seconds."""
    begun = time.monotonic()
    late = ""
    try:
        status = daemon.get("status")
        source, not_seen = "daemon", _daemon_blind(status)
    except GpuwardenError:  # no daemon, or one that gives no usable answer
        from gpuwarden import log
        from gpuwarden.blindspots import blind_spots
        from gpuwarden.cli.look import look

        log.configure("error")
        seen = asyncio.run(look(config, _BUDGET_SECONDS - _SPARE_SECONDS - (time.monotonic() - begun)))
        status, late, source, not_seen = seen.status, seen.late, "look", blind_spots()
    not_seen = (*not_seen, *nvml_blind(status))
    if refused := refused_readings(status):
        not_seen = (*not_seen, f"No permission for {', '.join(refused)}: the driver gives them to root only.")
    reasons = reasons_of(status, expect_gpus, late)
    verdict = verdict_of(reasons)
    return Report(
        verdict=verdict.name.lower(),
        code=int(verdict),
        source=source,
        seconds=round(time.monotonic() - begun, 2),
        reasons=reasons,
        not_seen=not_seen,
        status=status,
    )


def _daemon_blind(status: dict[str, Any]) -> tuple[str, ...]:
    if status["kmsg"]["up"] is False:
        return (f"No kernel log: {status['kmsg']['detail']}; the daemon sees Xids through NVML events only.",)
    return ()


def _show(report: Report) -> None:
    how = "as the running daemon knows it" if report.source == "daemon" else f"one look of {report.seconds:.1f} s"
    out = console()
    out.print(coloured(report.verdict), f"({how})")
    if report.reasons:
        made = table("SEVERITY", "REASON", "GPU", "", right=("GPU",))
        for each in report.reasons:
            name = f"{each.kind} (drill)" if each.drill else each.kind
            made.add_row(
                coloured(each.severity), cell(name), cell(each.gpu), cell(each.text or evidence_text(each.evidence))
            )
        print_table(made, out)
    click.echo()
    show({**report.status, "findings": [], "gpus": [{**g, "findings": []} for g in report.status["gpus"]]}, "table")
    if report.not_seen:
        click.echo("\nNot seen:")
        for line in report.not_seen:
            click.echo(f"  {cell(line)}")
