"""What a recognised kernel-log line means and what to do about it, in words for a person."""

from __future__ import annotations

import msgspec

from gpuwarden.model.kernel_message import ParsedLine
from gpuwarden.model.observation import LineKind
from gpuwarden.model.xid import Advice, describe, describe_sxid, sxid_is_fatal
from gpuwarden.model.xid_line import read_line


class Told(msgspec.Struct, frozen=True):
    """The columns `meaning` and `advice` of `gpuwarden kmsg`."""

    meaning: str
    advice: str


_ADVICE: dict[Advice, str] = {
    Advice.IGNORE: "Nothing to do for this line alone.",
    Advice.RESTART_APP: "Restart the application that was hit; the GPU itself goes on.",
    Advice.RESET_GPU: "Take work off this GPU and reset it.",
    Advice.REBOOT_NODE: "Take work off this node and reboot it; if it comes back, check power, seating and cooling.",
    Advice.WORKFLOW: "Look at the lines beside it and at the driver's recovery action before acting.",
    Advice.CONTACT_SUPPORT: "Collect nvidia-bug-report.sh output and ask the vendor if it comes back.",
}
_BY_KIND: dict[LineKind, Told] = {
    LineKind.FALLEN_OFF_BUS: Told(
        "The GPU can no longer be reached over PCIe.",
        "Take work off this node and reboot it; if it comes back, check power, seating and cooling.",
    ),
    LineKind.INIT_FAILED: Told(
        "The driver could not initialise the GPU.",
        "Read the lines before it; reset the GPU or reboot the node, and check the driver's version for this board.",
    ),
    LineKind.HUNG_TASK: Told(
        "A task has been waiting in the kernel without a break.",
        "Find what it waits for (`cat /proc/PID/stack`); with driver functions there, the driver hangs.",
    ),
    LineKind.OTHER_NVRM: Told("A message of the NVIDIA driver.", "Nothing to do for this line alone."),
}
_RATE_LIMITED = Told(
    "The GSP of this GPU goes on timing out (Xid 119), and the driver prints only some of it from here on.",
    "Take work off this GPU and reset it; the number of lines says nothing about the number of time-outs.",
)
_AER: dict[str, Told] = {
    "corrected": Told(
        "A PCIe error that the link corrected by itself.", "Watch the rate; a rising one is a slot, riser or cable."
    ),
    "nonfatal": Told(
        "A PCIe error that lost a transaction; the link goes on.", "Check slot, riser and power of the device named."
    ),
    "fatal": Told(
        "A PCIe error that stopped the link.", "Take work off this node; check slot, riser and power, then reboot."
    ),
    "": Told("Detail of a PCIe error.", "Read it with the line that states the severity."),
}


def tell(line: ParsedLine, driver: str = "") -> Told:
    """Return what a recognised line means and what to do about it. `driver` is the version that wrote it, if known."""
    if line.kind is LineKind.XID and line.code is not None:
        return _tell_xid(line.code, line.fields, driver)
    if line.kind is LineKind.SXID and line.code is not None:
        row = describe_sxid(line.code)
        fatal = "fatal" if sxid_is_fatal(line.code, line.fields.get("severity")) else "not fatal"
        return Told(f"{row.summary} ({fatal})", _ADVICE[row.action])
    if line.kind is LineKind.AER:
        return _AER[line.fields.get("severity", "")]
    if "one_of" in line.fields:
        return _RATE_LIMITED
    return _BY_KIND[line.kind]


def _tell_xid(code: int, fields: dict[str, str], driver: str) -> Told:
    row = describe(code)
    if "caused_by" in fields:
        cause = fields["caused_by"]
        return Told(f"{row.summary} (here: of Xid {cause})", f"See Xid {cause}.")
    read = read_line(code, fields, driver)
    return Told(f"{row.summary}: {read.told}" if read.told else row.summary, read.advice or _ADVICE[row.action])
