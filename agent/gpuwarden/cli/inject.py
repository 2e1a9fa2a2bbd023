"""`gpuwarden inject FAULT`: practice. A fault in the running daemon or its simulated node, marked as a drill."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from gpuwarden.cli.client import Daemon, reach
from gpuwarden.cli.drill_lines import LINES, address_of, line_of, write
from gpuwarden.cli.options import config_option, format_option
from gpuwarden.cli.output import print_json, print_table, progress, table
from gpuwarden.errors import InputError

_NEEDS = {"one": "one", "any": "one or all", "none": "node"}
_XID = re.compile(r"xid[-_ ]?(\d{1,6})")


@click.command(short_help="A fault for practice, marked as a drill everywhere.")
@click.argument("fault", required=False)
@click.option("--gpu", type=click.IntRange(0, 1023), help="Index of the GPU that is to have it.")
@click.option("--code", type=click.IntRange(0, 999_999), help="Short for --set code=N: which Xid.")
@click.option("--clear", is_flag=True, help="End the fault again.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An option of the fault. Repeatable.")
@click.option("--kmsg", "as_line", is_flag=True, help="Write a real line into /dev/kmsg instead. Asks first.")
@click.option("--pci", metavar="BDF", help="With --kmsg: the address in the line, where no GPU has it.")
@click.option("--yes", "-y", is_flag=True, help="With --kmsg: do not ask.")
@click.option("--list", "listed", is_flag=True, help="Show the faults that there are.")
@config_option
@format_option()
def inject(
    *,
    fault: str | None,
    gpu: int | None,
    code: int | None,
    clear: bool,
    settings: tuple[str, ...],
    as_line: bool,
    pci: str | None,
    yes: bool,
    listed: bool,
    config_path: Path | None,
    output_format: str,
) -> None:
    """Put FAULT into the running daemon, to see whether the right people are told the right thing.

    Everything that comes of it is marked as a drill. A daemon over a simulated node (`gpuwarden run --sim`) takes every
    fault of the list; on a real host only an Xid can be injected, as a line that the kernel did not write.

    \b
    --kmsg writes a real line into /dev/kmsg instead. It needs root, and OTHER AGENTS ON THIS HOST READ IT TOO: they
    may act on it. It cannot be taken back.

    \b
    Examples:
      gpuwarden inject --list
      gpuwarden inject xid79 --gpu 3
      gpuwarden inject fan --gpu 1                    and later, with --clear: its end
      gpuwarden inject ecc --gpu 0 --set per_second=200
      sudo gpuwarden inject xid79 --gpu 3 --kmsg
    """
    if listed:
        _list(output_format)
        return
    if fault is None:
        raise click.UsageError("which FAULT? `gpuwarden inject --list` shows what there is.")
    name, options = _named(fault, settings if code is None else (*settings, f"code={code}"))
    _, daemon = reach(config_path)
    if as_line:
        if clear:
            raise click.UsageError("a line in the kernel log cannot be taken back: no --clear with --kmsg")
        answer = _write_line(daemon, name, gpu, options, pci=pci, yes=yes)
    else:
        with progress("asking the daemon"):
            body = {"fault": name, "gpu": gpu, "clear": clear, "options": options}
            answer = daemon.post("inject", body, deadline_seconds=10.0)
    if output_format == "json":
        print_json(answer)
        return
    if as_line:
        click.echo(f"written: {answer['line']}")
        return
    where = "" if gpu is None else f" on GPU {gpu}"
    click.echo(f"{'cleared' if clear else 'injected'}: {name}{where} (a drill)")


def _named(fault: str, settings: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Return the fault's name and options: `xid79` is fault xid with code 79."""
    options: dict[str, Any] = {}
    name = fault.strip().lower().replace("-", "_")
    if (found := _XID.fullmatch(name)) is not None:
        name, options = "xid", {"code": int(found[1])}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.isidentifier():
            raise click.UsageError(f"--set {setting}: write NAME=VALUE")
        options[key] = _value(value)
    return name, options


def _value(text: str) -> str | int | float | bool:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _write_line(
    daemon: Daemon, name: str, gpu: int | None, options: dict[str, Any], *, pci: str | None, yes: bool
) -> dict[str, Any]:
    """Write the fault's line into /dev/kmsg, after the warning, and return what was written."""
    if name not in LINES:
        raise InputError(f"{name!r} leaves no line in the kernel log; these do: {', '.join(LINES)}")
    line = line_of(name, address_of(daemon, gpu, pci), options)
    click.echo(f"This line goes into the kernel log of this host:\n  {line}", err=True)
    click.echo(
        "gpuwarden takes it for a drill, because the kernel did not write it. Other agents on this host read it too\n"
        "(node problem detectors, cluster health checks) and may drain or reboot the host. It cannot be taken back.",
        err=True,
    )
    if not yes:
        click.confirm("Write it?", abort=True, err=True)
    write(line)
    return {"line": line}


def _list(output_format: str) -> None:
    """Show what a simulated node can be given, and which lines --kmsg can write."""
    from gpuwarden.sim.faults import FAULTS

    if output_format == "json":
        shown = ("name", "what", "gpu", "lasts", "options")
        rows = [{name: getattr(row, name) for name in shown} for row in FAULTS.values()]
        print_json({"faults": rows, "kmsg": list(LINES)})
        return
    made = table("FAULT", "GPU", "OPTIONS", "WHAT IT IS")
    for row in FAULTS.values():
        options = " ".join(f"{name}={value}" for name, value in row.options.items())
        made.add_row(row.name, _NEEDS[row.gpu], options or "-", row.what)
    print_table(made)
    click.echo("\nxid79 is short for: xid --set code=79. On a real host only xid can be injected.")
    click.echo(f"With --kmsg (a real line in the kernel log): {', '.join(LINES)}.")
