"""`gpuwarden kmsg`: what a kernel log says, one JSON object per recognised line."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

import click
import msgspec

from gpuwarden.cli.options import format_option
from gpuwarden.errors import InputError
from gpuwarden.model.kernel_advice import tell
from gpuwarden.model.kernel_log import parse_line, parse_record
from gpuwarden.model.kernel_message import ParsedLine, parse_message

_CHUNK_BYTES = 256 * 1024
_RECORD_BYTES = 8192  # the largest record the kernel hands out
_LONGEST_LINE_BYTES = 1024 * 1024  # a line of `journalctl -o json` may be long; the rest of a longer one is dropped
_KMSG_DEVICE = (1, 11)  # major and minor of /dev/kmsg; source: Linux devices.txt

Numbered: TypeAlias = tuple[int, ParsedLine | None]


class Row(msgspec.Struct, frozen=True):
    """One recognised line; the fields are the contract of this command."""

    line_number: int
    kind: str
    code: int | None
    pci: str | None
    pid: int | None
    meaning: str
    advice: str


@click.command(short_help="What a kernel log says about GPUs.")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--driver",
    metavar="VERSION",
    default="",
    help="The driver that wrote the log, where the log does not say it itself: NVLink5 words depend on it.",
)
@click.option("--follow", "-f", is_flag=True, help="With /dev/kmsg: go on with what the kernel writes from now on.")
@format_option("json", "table")
def kmsg(file: Path | None, driver: str, follow: bool, output_format: str) -> None:
    """Say what a kernel log says about GPUs: Xid, SXid, GPUs off the bus, failed starts, PCIe errors, hung tasks.

    FILE is a saved dmesg, syslog or journal, a file of raw records, or /dev/kmsg; without it, or with "-", standard
    input. Every recognised line becomes one JSON object with line_number (from 1), kind, code, pci, pid, meaning and
    advice. Other lines print nothing. Bytes that are no text do no harm.

    \b
    Examples:
      dmesg | gpuwarden kmsg
      journalctl -k -b -1 | gpuwarden kmsg --format table
      gpuwarden kmsg /var/log/kern.log.1
      gpuwarden kmsg --follow /dev/kmsg
    """
    show = _json_row if output_format == "json" else _table_row
    teller = _Teller(driver)
    try:
        for batch in _batches(file, follow):
            found = [show(teller.row(number, line)) for number, line in batch if line is not None]
            if found:
                click.echo("\n".join(found))
    except KeyboardInterrupt:  # how one stops following a log
        return


class _Teller:
    """Explains lines in turn; a line in which the driver says its version holds for those after it."""

    def __init__(self, driver: str) -> None:
        self._driver = driver

    def row(self, number: int, line: ParsedLine) -> Row:
        self._driver = line.fields.get("driver", self._driver)
        told = tell(line, self._driver)
        return Row(number, line.kind.value, line.code, line.bdf, line.pid, told.meaning, told.advice)


def _json_row(row: Row) -> str:
    return msgspec.json.encode(row).decode()


def _table_row(row: Row) -> str:
    what = row.kind if row.code is None else f"{row.kind} {row.code}"
    return f"{row.line_number:>7}  {what:<16} {row.pci or '-':<13} {row.meaning.rstrip('.')}. {row.advice}"


def _batches(file: Path | None, follow: bool) -> Iterator[list[Numbered]]:
    """Yield what was read, in batches of numbered lines. Raises: InputError for what cannot be read."""
    try:
        with _opened(file) as source:
            if _is_kmsg(source):
                yield from _records(source.fileno(), follow)
            else:
                if source.isatty():
                    click.echo("gpuwarden: reading lines from the terminal; Ctrl-D ends.", err=True)
                yield from _lines(source)
    except BrokenPipeError:
        raise
    except OSError as error:
        hint = "\nAs an ordinary user, try: dmesg | gpuwarden kmsg" if isinstance(error, PermissionError) else ""
        raise InputError(f"cannot read {file or 'standard input'}: {error.strerror or error}{hint}") from error


def _opened(file: Path | None) -> BinaryIO:
    if file is None or str(file) == "-":
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0) if _has_descriptor() else sys.stdin.buffer
    return file.open("rb", buffering=0)


def _has_descriptor() -> bool:
    try:
        sys.stdin.fileno()
    except (OSError, ValueError):
        return False
    return True


def _is_kmsg(source: BinaryIO) -> bool:
    try:
        found = os.fstat(source.fileno())
    except (OSError, ValueError):
        return False
    device = (os.major(found.st_rdev), os.minor(found.st_rdev))
    return stat.S_ISCHR(found.st_mode) and device == _KMSG_DEVICE


def _records(descriptor: int, follow: bool) -> Iterator[list[Numbered]]:
    """Yield the records of /dev/kmsg, one a read; a record that was overwritten before it was read is told."""
    os.set_blocking(descriptor, False)
    number = 1
    while True:
        try:
            raw = os.read(descriptor, _RECORD_BYTES)
        except BlockingIOError:
            if not follow:
                return
            select.select([descriptor], [], [])
            continue
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            click.echo("gpuwarden: records were overwritten before they could be read.", err=True)
            continue
        yield [(number, parse_message(parse_record(raw).text))]
        number += raw.count(b"\n")


def _lines(source: BinaryIO) -> Iterator[list[Numbered]]:
    """Yield the lines of a stream as they come, cut where they are longer than any real one."""
    number = 1
    rest = b""
    while chunk := source.read(_CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(b"\n")
        yield [(number + index, _parsed(line)) for index, line in enumerate(whole)]
        number += len(whole)
        rest = rest[:_LONGEST_LINE_BYTES]
    if rest:
        yield [(number, _parsed(rest))]


def _parsed(line: bytes) -> ParsedLine | None:
    return parse_line(line.decode("utf-8", "replace").rstrip("\r"))
