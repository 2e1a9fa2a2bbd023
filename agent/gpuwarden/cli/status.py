"""`gpuwarden status`: what the running daemon knows now."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from gpuwarden.cli.client import reach
from gpuwarden.cli.options import config_option, format_option, spell
from gpuwarden.cli.output import cell, coloured, console, evidence_text, print_json, print_table, progress, table
from gpuwarden.errors import DaemonUnreachableError

_WATCH_SECONDS = 2.0


@click.command(short_help="What the daemon knows now.")
@click.option("--watch", "-w", is_flag=True, help=f"Show it again every {_WATCH_SECONDS:g} seconds until Ctrl-C.")
@config_option
@format_option()
def status(watch: bool, config_path: Path | None, output_format: str) -> None:
    """Show host, GPUs and open findings as the running daemon knows them.

    Asks the daemon over its status socket, as the user who may open it. Where a reading is absent, "-" is shown, and
    --format json says why. With --watch, json is one line per look.

    \b
    Examples:
      gpuwarden status
      gpuwarden status --watch
      gpuwarden status --format json | jq '.gpus[] | {gpu, health}'
    """
    _, daemon = reach(config_path)

    def ask() -> dict[str, Any]:
        with progress("asking the daemon"):
            found: dict[str, Any] = daemon.get("status")
            return found

    if not watch:
        show(ask(), output_format)
        return
    try:
        _watch(ask, output_format)
    except KeyboardInterrupt:
        click.echo()


def show(found: dict[str, Any], output_format: str) -> None:
    """Print one answer of /api/v1/status."""
    if output_format == "json":
        print_json(found)
        return
    out = console()
    for line in _summary(found):
        out.print(line)
    if found["gpus"]:
        out.print()
        print_table(_gpus(found), out)
    if found["cases"]:
        out.print()
        print_table(_cases_table(found), out)
    open_findings = list(_findings(found))
    if open_findings:
        out.print()
        print_table(_findings_table(found, open_findings), out)


def _watch(ask: Callable[[], dict[str, Any]], output_format: str) -> None:
    """Show it again and again; a daemon that goes away is waited for."""
    gone = False
    while True:
        try:
            found = ask()
        except DaemonUnreachableError as error:
            if not gone:
                click.echo(f"gpuwarden: {str(error).splitlines()[0]}; waiting for it", err=True)
            gone = True
        else:
            gone = False
            if output_format == "json":
                print_json(found, lines=True)
            else:
                if sys.stdout.isatty():
                    click.clear()
                show(found, output_format)
        sys.stdout.flush()
        time.sleep(_WATCH_SECONDS)


def _summary(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines above the table."""
    host, nvml, kmsg, journal = (found[name] for name in ("host", "nvml", "kmsg", "journal"))
    drill = "  DRILL" if found["drill"] else ""
    yield f"{cell(host['name'])}: {found['health']}, mode {found['mode']}{drill}"
    driver = f"driver {cell(nvml['driver'])}, " if nvml["driver"] else ""
    detail = f" ({cell(nvml['detail'])})" if nvml["detail"] else ""
    yield f"nvml {nvml['state']}{detail}: {driver}{len(found['gpus'])} GPUs known"
    remedy = found["remedy"]
    if remedy["stopped"] is not False:
        yield f"stopped: {cell(remedy['stop_detail'])}"
    if remedy["paused_until"] is not None:
        yield "paused by an operator"
    for held in remedy["holds"]:
        yield f"held by an operator: {cell(held['uuid'] or 'the host')} {cell(held['why'])}".rstrip()
    if not kmsg["up"]:
        yield f"kernel log not read: {cell(kmsg['detail'])}"
    if not journal["writable"]:
        yield f"journal not written: {cell(journal['detail'])}"


def _gpus(found: dict[str, Any]) -> Any:
    numbers = ("GPU", "CORE", "MEM", "FAN", "POWER", "CLOCK", "UTIL", "MEMORY")
    made = table("GPU", "NAME", "BUS", "HEALTH", "PRESENCE", *numbers[1:], "FINDINGS", right=numbers)
    for gpu in found["gpus"]:
        made.add_row(
            cell(gpu["gpu"]),
            cell(gpu["name"] or gpu["uuid"]),
            cell(gpu["pci_bus_id"]),
            coloured(gpu["health"]),
            cell(gpu["presence"]),
            *_columns(gpu["readings"]),
            cell(" ".join(dict.fromkeys(each["kind"] for each in gpu["findings"]))),
        )
    return made


def _columns(readings: dict[str, Any]) -> Iterator[str]:
    """Yield temperature of core and memory, fan, power, clock, utilisation and memory."""

    def one(name: str, form: str, scale: float = 1.0) -> str:
        value = readings[name]["value"]
        known = [each for each in value if each is not None] if isinstance(value, list) else [value]
        return "-" if not known or known[0] is None else form.format(max(known) * scale)

    yield one("core_celsius", "{:.0f}C")
    yield one("memory_celsius", "{:.0f}C")
    yield one("fan_speed_ratio", "{:.0f}%", 100)
    yield _of(one("power_watts", "{:.0f}"), one("power_limit_enforced_watts", "{:.0f}"), "W")
    yield one("graphics_clock_hertz", "{:.0f}MHz", 1e-6)
    yield one("gpu_utilization_ratio", "{:.0f}%", 100)
    gib = 1 / 2**30
    yield _of(one("memory_used_bytes", "{:.1f}", gib), one("memory_size_bytes", "{:.0f}", gib), "GiB")


def _of(value: str, limit: str, unit: str) -> str:
    if value == "-":
        return "-"
    return f"{value}{unit}" if limit == "-" else f"{value}/{limit}{unit}"


def _cases_table(found: dict[str, Any]) -> Any:
    made = table("CASE", "GPU", "FOR", "STATE", "RUNG", "WAITS FOR", "WHY", right=("GPU", "FOR"))
    for each in found["cases"]:
        made.add_row(
            cell(each["case"]) + (" (drill)" if each["drill"] else ""),
            cell(each["gpu"]),
            spell(found["host"]["time"] - each["since"]),
            cell(each["state"]),
            cell(f"{each['rung']} of {', '.join(each['ladder'])}"),
            cell(" ".join(each["waits_for"])),
            cell(each["why"]),
        )
    return made


def _findings(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every open finding, the worst first."""
    every = [*found["findings"], *(each for gpu in found["gpus"] for each in gpu["findings"])]
    ranks = {"critical": 0, "warning": 1}
    yield from sorted(every, key=lambda each: (ranks.get(each["severity"], 2), each["opened"]))


def _findings_table(found: dict[str, Any], open_findings: list[dict[str, Any]]) -> Any:
    made = table("SEVERITY", "FINDING", "GPU", "FOR", "COUNT", "EVIDENCE", right=("GPU", "FOR", "COUNT"))
    for each in open_findings:
        made.add_row(
            coloured(each["severity"]),
            cell(each["kind"]) + (" (drill)" if each["drill"] else ""),
            cell(each["gpu"]),
            spell(found["host"]["time"] - each["opened"]),
            cell(each["count"]),
            evidence_text(each["evidence"]),
        )
    return made
