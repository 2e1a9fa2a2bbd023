"""What a kernel message says: Xid, SXid, lost and failed GPUs, PCIe errors, hung tasks. Pure; never raises.

A message begins at its first character: what a log puts before it is `kernel_log`'s business. Every pattern is anchored
there. Task names, process names and client version strings are chosen by users and may hold any text, so nothing is
ever searched for in the middle of a line. Sources: real lines of public logs (tests/data/kernel_log_lines.tsv,
each with its origin), open-gpu-kernel-modules 595.45.04, Linux aer.c and hung_task.c.
"""

from __future__ import annotations

import re

import msgspec

from gpuwarden.model.observation import LineKind

MAX_TEXT = 1024
"""Characters of a message that are kept; the kernel's own limit on a record is about that."""


class ParsedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A recognised line: the columns of `gpuwarden kmsg`. `bdf` is `0000:3b:00` without function, or None.

    `fields` holds decoded extras; each pattern's named groups are its keys.
    """

    kind: LineKind
    code: int | None = None
    bdf: str | None = None
    pid: int | None = None
    text: str
    fields: dict[str, str] = {}


_BDF = r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}"
_GPU = rf"(?:GPU\s+(?:at\s+)?(?:PCI:)?(?P<bdf>{_BDF})(?:\.[0-7])?[:,]?\s+|GPU\d+\s+)?"

_XID = re.compile(
    rf"""NVRM:\s+Xid\s+
    \((?:PCI:)?(?:(?P<bdf>{_BDF})(?:\.[0-7])?|[0-9A-Fa-f]{{4}}:[0-9A-Fa-f]{{2}})   # the short form has no domain
    (?:\s+GPU-I:(?P<gi>\d+))?(?:\s+GPU-CI:(?P<ci>\d+))?\):\s*
    (?P<code>\d{{1,9}})(?!\d)[,\s]*
    (?:pid=(?:(?P<pid>\d{{1,10}})|'?<unknown>'?)(?:,\s*|$))?(?:name=(?P<name>.*?)(?:,\s+|$))?(?P<rest>.*)""",
    re.VERBOSE | re.DOTALL,
)
_SXID = re.compile(
    rf"""nvidia-nvswitch(?P<switch>\d+):\s+SXid\s+\(PCI:(?P<bdf>{_BDF})(?:\.[0-7])?\):\s*
    (?P<code>\d{{1,9}})(?!\d)[,\s]*
    (?:(?P<severity>Fatal|Non-fatal),\s*(?:Link\s+(?P<link>\d+)\s)?)?""",
    re.VERBOSE,
)
_FALLEN = re.compile(rf"NVRM:\s+{_GPU}(?:GPU\s+)?(?:has\s+)?fallen off the bus")
_PROBE = re.compile(  # one message of several lines; it holds nothing that a user could have written
    rf"NVRM:\s+The NVIDIA GPU\s+(?P<bdf>{_BDF})(?:\.[0-7])?\s.*?\nNVRM:\s+fallen off the bus", re.DOTALL
)
_INIT = re.compile(
    rf"NVRM:\s+{_GPU}(?:RmInitAdapter failed!?(?:\s+\((?P<status>[^)\s]{{1,40}})\))?|rm_init_adapter failed)"
)
_LOADING = re.compile(
    r"NVRM: loading NVIDIA UNIX .{1,60}?Kernel Module.{1,40}?\s(?P<driver>\d{3}\.\d{1,4}(?:\.\d{1,4})?)(?!\S)"
)
_RATE = re.compile(
    rf"NVRM: Rate limiting GSP RPC error prints for GPU at PCI:(?P<bdf>{_BDF})(?:\.[0-7])? "
    r"\(printing 1 of every (?P<one_of>\d{1,6})\)"
)
_NVRM = re.compile(rf"NVRM:\s*{_GPU}(?:(?P<uuid>GPU-[0-9a-f]{{8}}(?:-[0-9a-f]{{4,12}}){{4}}))?")
_AER = re.compile(
    rf"[\w.-]{{1,64}}\s(?P<bdf>{_BDF})\.[0-7]:\s(?:AER:\s*(?P<aer>.*)|(?=PCIe Bus Error:)(?P<bare>.*))", re.DOTALL
)
_AER_SEVERITY = r"(?P<severity>Correct(?:ed|able)|Uncorrect(?:ed|able)(?: \((?:Non-)?Fatal\))?)"
_AER_DETAILS = (  # the device's own line, and the port's line that announces it
    ("head", re.compile(rf"PCIe Bus Error: severity={_AER_SEVERITY}(?:, type=(?P<layer>[A-Za-z ]{{1,40}}))?")),
    (
        "announced",
        re.compile(rf"(?:Multiple )?{_AER_SEVERITY} error (?:message )?received(?:(?::| from) (?P<agent>{_BDF}))?"),
    ),
)
_HUNG = re.compile(
    r"INFO: task (?P<task>.+):(?P<pid>\d{1,10}) blocked (?:in I/O wait )?for more than (?P<seconds>\d{1,9}) seconds",
    re.DOTALL,
)

_CAUSED_BY = re.compile(r"caused by previous Xid (?P<caused_by>\d{1,9})\.?\s*\Z")
_NVLINK5 = re.compile(
    r"(?P<unit>[A-Z][A-Z0-9_]*)\s+(?P<severity>Fatal|Non-?fatal)\s+XC(?P<xc>\d+)\s+i(?P<instance>\d+)\s+"
    r"Link\s+(?P<link>-?\d+)\s+\((?P<words>0x[0-9a-fA-F]+(?: 0x[0-9a-fA-F]+)*)\)"
)
_RPC = re.compile(
    r"Timeout (?:after \d+s of waiting for RPC response from GPU\d+ GSP|waiting for RPC from GSP)! "
    r"Expected function (?P<rpc_function>\d+) \((?P<rpc>\w+)\)"
)
_MEMORY_FAULT = re.compile(r"(?P<containment>Contained|Uncontained): (?P<unit>[^(]{1,40}?) \(")
_XID_DETAILS: dict[int, re.Pattern[str]] = {  # what the rest of an Xid line holds, by code; groups become fields
    13: re.compile(r"Graphics .*?\(GPC (?P<gpc>\d+), TPC (?P<tpc>\d+)(?:, SM (?P<sm>\d+))?\)"),
    31: re.compile(
        r"[Cc]h(?:annel)? .*?MMU Fault: ENGINE (?P<engine>\w+) .*?faulted @ (?P<address>0x[0-9a-fA-F_]+)\."
        r" Fault is of type (?P<fault>\w+) (?P<access>\w+)"
    ),
    48: re.compile(r"An uncorrectable .*?partition (?P<partition>\d+), subpartition (?P<subpartition>\d+)"),
    63: re.compile(r"Row Remapper: New row \((?P<row>0x[0-9a-fA-F]+)\)"),
    64: re.compile(r"Row Remapper Error: \((?P<row>0x[0-9a-fA-F]+)\)"),
    74: re.compile(
        r"NVLink: fatal error detected on link (?P<link>\d+)(?:\((?P<words>0x[0-9a-fA-F]+(?:, 0x[0-9a-fA-F]+)*)\))?"
    ),
    94: _MEMORY_FAULT,
    95: _MEMORY_FAULT,
    119: _RPC,
    154: re.compile(
        r"GPU recovery action changed from (?P<recovery_from>0x[0-9a-fA-F]{1,8}) \([^)]*\)"
        r" to (?P<recovery_to>0x[0-9a-fA-F]{1,8})(?![0-9a-fA-F])"
    ),
    **dict.fromkeys(range(144, 151), _NVLINK5),
}


def parse_message(text: str) -> ParsedLine | None:
    """Return what a message says, or None when it is none of ours. `text` begins with the message itself."""
    text = text[:MAX_TEXT].strip()
    if text.startswith("NVRM:"):
        return _nvrm(text)
    if text.startswith("nvidia-nvswitch"):
        return _sxid(text)
    if text.startswith("INFO: task "):
        return _hung_task(text)
    return _aer(text)


def _nvrm(text: str) -> ParsedLine | None:
    if text[5:].lstrip().startswith("Xid "):
        return _xid(text)  # an Xid line that cannot be read is not some other message
    if found := _FALLEN.match(text) or _PROBE.match(text):
        return ParsedLine(kind=LineKind.FALLEN_OFF_BUS, bdf=_bdf(found), text=printable(text))
    if found := _INIT.match(text):
        return ParsedLine(
            kind=LineKind.INIT_FAILED, bdf=_bdf(found), text=printable(text), fields=_fields(found, "status")
        )
    for pattern in (_LOADING, _RATE, _NVRM):
        if found := pattern.match(text):
            bdf = _bdf(found) if "bdf" in pattern.groupindex else None
            fields = _fields(found, *(name for name in pattern.groupindex if name != "bdf"))
            return ParsedLine(kind=LineKind.OTHER_NVRM, bdf=bdf, text=printable(text), fields=fields)
    return ParsedLine(kind=LineKind.OTHER_NVRM, text=printable(text))


def _xid(text: str) -> ParsedLine | None:
    found = _XID.match(text)
    if found is None:
        return None
    code = int(found["code"])
    fields = _fields(found, "gi", "ci", "name")
    rest = found["rest"]
    if (pattern := _XID_DETAILS.get(code)) and (detail := pattern.match(rest)):
        fields |= _fields(detail, *detail.re.groupindex)
    if "severity" in fields:
        fields["severity"] = _severity(fields["severity"])
    for action in ("recovery_from", "recovery_to"):
        if action in fields:
            fields[action] = str(int(fields[action], 16))  # the value counts; its label changes between drivers
    if cause := _CAUSED_BY.search(rest):
        fields["caused_by"] = cause["caused_by"]
    return ParsedLine(
        kind=LineKind.XID, code=code, bdf=_bdf(found), pid=_pid(found), text=printable(text), fields=fields
    )


def _sxid(text: str) -> ParsedLine | None:
    found = _SXID.match(text)
    if found is None:
        return None
    fields = _fields(found, "switch", "severity", "link")
    # One event writes up to three lines; only the first states its severity, the others are its detail.
    fields["part"] = "head" if "severity" in fields else "detail"
    if "severity" in fields:
        fields["severity"] = _severity(fields["severity"])
    return ParsedLine(kind=LineKind.SXID, code=int(found["code"]), bdf=_bdf(found), text=printable(text), fields=fields)


def _hung_task(text: str) -> ParsedLine | None:
    found = _HUNG.match(text)
    if found is None:
        return None
    return ParsedLine(
        kind=LineKind.HUNG_TASK, pid=_pid(found), text=printable(text), fields=_fields(found, "task", "seconds")
    )


def _aer(text: str) -> ParsedLine | None:
    found = _AER.match(text)
    if found is None:
        return None
    said = found["aer"] if found["aer"] is not None else found["bare"]
    fields: dict[str, str] = {"part": "detail"}
    for part, pattern in _AER_DETAILS:
        if detail := pattern.match(said):
            fields = {"part": part} | _fields(detail, *pattern.groupindex)
            fields["severity"] = _severity(fields["severity"])
            break
    return ParsedLine(kind=LineKind.AER, bdf=_bdf(found), text=printable(text), fields=fields)


def _severity(word: str) -> str:
    """Return `corrected`, `nonfatal` or `fatal` for the words that AER, SXid and NVLink5 lines use."""
    plain = word.lower().replace("-", "")
    if plain.startswith("correct"):
        return "corrected"
    return "nonfatal" if "nonfatal" in plain else "fatal"


def _fields(found: re.Match[str], *names: str) -> dict[str, str]:
    return {name: printable(value) for name in names if (value := found[name]) and value != "<unknown>"}


def _pid(found: re.Match[str]) -> int | None:
    return int(found["pid"]) if found["pid"] else None


def _bdf(found: re.Match[str]) -> str | None:
    return normal_bdf(found["bdf"]) if found["bdf"] else None


def normal_bdf(written: str) -> str:
    """Return `domain:bus:device` in lower case, four digits of domain or more (`00000000:3B:00` -> `0000:3b:00`)."""
    domain, _, rest = written.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"


def printable(text: str) -> str:
    """Return text with every character that could steer a terminal or break a line written as an escape."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
