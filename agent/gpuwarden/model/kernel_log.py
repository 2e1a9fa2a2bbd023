"""How a kernel-log line is framed: raw records of /dev/kmsg, and what dmesg, syslog and journald put before a message.

Pure: bytes or text in, records out; no input makes it raise. In a raw record the message begins at its first character
and nothing else is accepted; only lines of saved logs have a prefix taken off. What messages mean is in
`kernel_message`.
"""

from __future__ import annotations

import re

import msgspec

from gpuwarden.model.kernel_message import MAX_TEXT, ParsedLine, parse_message

_USER = 1  # syslog facility of user space: what a record without a readable header is taken to be
_WARNING = 4


class KmsgRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One raw record. `sequence` is None where the header cannot be read; then all of it is `text`.

    `usec` is the printk clock (near CLOCK_MONOTONIC); `details` holds the KEY=value lines that follow the message.
    """

    priority: int  # syslog level, 0 to 7
    facility: int  # 0: written by the kernel itself
    sequence: int | None
    usec: int | None
    flags: str
    text: str
    details: dict[str, str] = {}


_MAY_MATTER = re.compile(  # a whole record by the beginning of its message, anything else by a word in it
    rb"\d[^;]*;\s*(?:NVRM:|nvidia-nvswitch|INFO: task |[\w.-]+ [0-9A-Fa-f]{4,8}:)"
    rb"|\D.*(?:NVRM:|SXid|AER:|PCIe Bus| blocked )",
    re.DOTALL,
)


def may_matter(raw: bytes) -> bool:
    """Return False for a raw record that cannot hold a recognised message. A flood is sorted out by this alone."""
    return _MAY_MATTER.match(raw) is not None


_HEADER = re.compile(rb"(\d{1,10}),(\d{1,18}),(\d{1,18}),([^;\n]{0,100});")
_ESCAPE = re.compile(rb"\\x([0-9A-Fa-f]{2})")


def parse_record(raw: bytes) -> KmsgRecord:
    """Return one record of /dev/kmsg taken apart, its `\\xNN` escapes undone.

    Source: Documentation/ABI/testing/dev-kmsg. Bytes that are not such a record come back as text of facility user.
    """
    header = _HEADER.match(raw)
    body = raw[header.end() :] if header else raw
    message, _, rest = body.partition(b"\n")
    if header is None:
        return KmsgRecord(
            priority=_WARNING, facility=_USER, sequence=None, usec=None, flags="", text=_unescaped(message)
        )
    number = int(header[1])
    return KmsgRecord(
        priority=number & 7,
        facility=number >> 3,
        sequence=int(header[2]),
        usec=int(header[3]),
        flags=header[4].decode("utf-8", "replace"),
        text=_unescaped(message),
        details=_details(rest) if rest else {},
    )


def sequence_of(raw: bytes) -> int | None:
    """Return only the sequence number of a raw record, or None where its header cannot be read."""
    header = _HEADER.match(raw)
    return int(header[2]) if header else None


def _unescaped(message: bytes) -> str:
    if b"\\x" in message:
        message = _ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), message)
    return message.decode("utf-8", "replace")


def _details(rest: bytes) -> dict[str, str]:
    """Return the ` KEY=value` lines after the message."""
    pairs = (line[1:].partition(b"=") for line in rest.split(b"\n") if line[:1] == b" ")
    return {_unescaped(key): _unescaped(value) for key, equals, value in pairs if equals}


_ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"
_BRACKET = r"\[[^\[\]]{1,40}\]"
_PREFIX = re.compile(
    rf"""\s*
    (?:<\d{{1,3}}>)?\s*                                                           # as printed by `dmesg --raw`
    (?:[a-z0-9]{{3,8}}\s*:(?:emerg|alert|crit|err|warn|notice|info|debug)\s*:\s*)?  # dmesg --decode
    (?:(?:[\w.-]{{1,64}}:\s)?kern:\s[a-z]{{3,8}}:\s)?                               # talosctl dmesg
    (?:
      (?:
        (?:{_ISO}
        |(?:[^\s\[\]]{{1,12}}\s+){{1,3}}\d{{1,2}}:\d\d:\d\d(?:[.,]\d+)?(?:\s[A-Z]{{2,5}}(?=\s))?
        |\d{{9,12}}\.\d+
        |{_BRACKET})\s+
        (?:[\w.:-]{{0,252}}\w\s+)?                                                 # host
      )?
      kernel(?:\[\d+\])?:\s*
    )?
    (?:{_ISO}\s+)?
    (?:{_BRACKET}:?\s*)?
    (?:\[\s*[TC]\d+\]\s*)?                                                       # caller, where the kernel prints it
    """,
    re.VERBOSE,
)
_RAW = re.compile(r"\d{1,10},\d{1,18},\d{1,18},[^;\n]{0,100};")


_LONGEST_JOURNAL_LINE = 32 * MAX_TEXT  # a kernel message as a list of numbers, and all of journald's own fields


class _JournalLine(msgspec.Struct):
    """What is needed of a line of `journalctl -o json`."""

    message: str | list[int] | None = msgspec.field(name="MESSAGE", default=None)
    transport: str = msgspec.field(name="_TRANSPORT", default="")


def parse_line(text: str) -> ParsedLine | None:
    """Return what one line of a saved kernel log says, or None.

    Accepts the bare message, raw records, and what dmesg (any time format, `-x`, `-r`), syslog in any language,
    journald (`short*`, `json`) and talosctl print before it. A line of another program is never taken.
    """
    line = text[: 4 * MAX_TEXT]
    if line.startswith("{"):
        return _journal_line(text) if len(text) <= _LONGEST_JOURNAL_LINE else None
    if _RAW.match(line):
        return parse_message(parse_record(line.encode("utf-8", "replace")).text)
    prefix = _PREFIX.match(line)
    return parse_message(line[prefix.end() :] if prefix else line)


def _journal_line(text: str) -> ParsedLine | None:
    try:
        entry = msgspec.json.decode(text.encode("utf-8", "replace"), type=_JournalLine)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if entry.transport != "kernel" or entry.message is None:
        return None
    message = entry.message
    if isinstance(message, list):  # journald writes bytes that are not UTF-8 as numbers
        message = bytes(byte & 0xFF for byte in message).decode("utf-8", "replace")
    return parse_message(message)
