"""What one Xid line says beyond its number: the words of NVLink lines, the target of a recovery action, its cause.

A line can matter more or less than its code does by itself: an NVLink5 line says by its words whether its GPU needs a
reset, and whether that GPU is at fault or the victim of its peer.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gpuwarden.model.nvlink4 import HARMLESS, NVLINK4_XID, Cause, causes
from gpuwarden.model.nvlink5 import Rule, Words, read_words
from gpuwarden.model.recovery import recovery_name, recovery_severity
from gpuwarden.model.severity import EventClass, Severity

RECOVERY_CHANGED = 154


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """A line read. `severity` and `event_class` None: as the kind has them. `told` and `advice` are sentences or "".

    `counted_only`: the line says that there is nothing to do, now or later.
    """

    severity: Severity | None = None
    event_class: EventClass | None = None
    counted_only: bool = False
    evidence: dict[str, str | int | float | bool | None] = {}
    told: str = ""
    advice: str = ""


NOTHING = Read()
_RECOVERY: dict[str, str] = {
    "none": "Nothing to do: the driver took its verdict back.",
    "gpu_reset": "Stop what runs on this GPU and reset it.",
    "node_reboot": "Take work off this node and reboot it.",
    "drain_p2p": "Stop peer-to-peer traffic with this GPU, then read the recovery action again.",
    "drain_and_reset": "Give this GPU no new work, let it finish, then reset it.",
    "recover_imex_domain": "The NVLink domain needs its operator: recover the IMEX domain.",
    "bus_reset": "Take work off this GPU and reset it through the bus (`nvidia-smi -r bus`).",
    "system_reboot": "Take work off this node and reboot it.",
    "unknown": "A value this release does not know: look it up in the documentation of the driver.",
}
_AT_ONCE: dict[str, str] = {
    "RESET_GPU": "Take work off this GPU and reset it",
    "IGNORE": "Nothing to do at once",
    "XID_154_EVAL": "Do what the driver's recovery action (Xid 154) asks for; without one, restart the application",
}
_LATER: tuple[tuple[str, str], ...] = (  # how the vendor's word begins: what it means, first match wins
    ("IGNORE", ""),
    (
        "INVESTIGATE_PEER_DEVICE",
        "look at the device at the other end of the link: this GPU is its victim",
    ),
    ("INVESTIGATE_LINK_SI_AND_CABLES", "check the link's signal integrity and its cables"),
    ("INVESTIGATE_LINK_SI", "check the link's signal integrity"),
    ("INVESTIGATE_SW_USER_LINK_SI", "look for software or a user that took the link down, then at signal integrity"),
    ("INVESTIGATE_SW", "look for software or a user that took the link down"),
    ("INVESTIGATE_HOST", "look at the host that took the link down"),
    ("SYMPATHETIC", "it follows from another error: report it only where it stands alone"),
    ("REPORT_ISSUE", "report it where it comes more than once a day"),
    ("CHECK_NVLINK", "follow the vendor's steps for NVLink failures"),
    ("CONTACT_SUPPORT", "ask the vendor where it comes back"),
)
_ON_PURPOSE = ("INVESTIGATE_SW", "INVESTIGATE_HOST")
_CAUSES: dict[Cause, str] = {
    Cause.ECC: "an ECC or parity error in the link's logic",
    Cause.MECHANICAL: "a mechanical fault: check seating, connectors, bridge or baseboard",
    Cause.SIGNAL_INTEGRITY: "signal integrity of the link",
    Cause.UNEXPECTED: "an error that should not occur: ask the vendor",
    Cause.DIAGNOSE_ON_REPEAT: "an error that calls for a field diagnostic if it repeats",
    Cause.ACT_ON_REPEAT: "an error to act on if it repeats",
    Cause.THRESHOLD: "a threshold of corrected errors that was passed",
    Cause.SYMPATHETIC: "an error at the other end of the link",
    Cause.IGNORE: "nothing of weight",
}


def read_line(code: int, fields: Mapping[str, str], driver: str = "") -> Read:
    """Return what an Xid line says. `driver` is the version that wrote it, "" where nobody knows."""
    if code == RECOVERY_CHANGED and "recovery_to" in fields:
        return _recovery(int(fields["recovery_to"]))
    if (words := read_words(code, fields, driver)) is not None:
        return _nvlink5(words)
    if code == NVLINK4_XID and "words" in fields:
        return _nvlink4(causes(fields["words"]))
    return NOTHING


def _recovery(action: int) -> Read:
    name = recovery_name(action)
    return Read(
        severity=recovery_severity(action),
        evidence={"recovery_action": name, "recovery_to": action, "recovery_advice": _RECOVERY[name]},
        told=f"now {name}",
        advice=_RECOVERY[name],
    )


def _nvlink5(words: Words) -> Read:
    evidence: dict[str, str | int | float | bool | None] = {"unit": words.unit, "link": words.link}
    if words.reason is not None:
        evidence["link_down_reason"] = f"{words.reason:#04x}"
    rule = words.rule
    if rule is None:
        evidence["decoded"] = "no row of the table fits these words"
        return Read(evidence=evidence, told=f"{words.unit}, link {words.link}: no row of the table fits its words")
    evidence |= {"at_once": rule.immediate, "then": rule.investigatory, "advice": advice_of(rule)}
    if words.layout is None:
        evidence["driver"] = "unknown: read as the one layout that fits"
    if rule.blames_peer:
        evidence["blame"] = "peer"
    severity, event_class = _weight(rule)
    reason = "" if words.reason is None else f", reason {words.reason:#04x}"
    return Read(
        severity=severity,
        event_class=event_class,
        counted_only=rule.ignorable,
        evidence=evidence,
        told=f"{words.unit}, link {words.link}{reason}",
        advice=advice_of(rule),
    )


def _weight(rule: Rule) -> tuple[Severity, EventClass]:
    """Return how much a rule matters. The word the driver prints (Fatal, Nonfatal) says less than the table does."""
    if rule.resets:
        return (Severity.WARNING if rule.blames_peer else Severity.CRITICAL), EventClass.RESET
    if rule.immediate == "IGNORE" and rule.investigatory.startswith(_ON_PURPOSE):
        return Severity.INFO, EventClass.APPLICATION
    return Severity.WARNING, EventClass.APPLICATION


def advice_of(rule: Rule) -> str:
    """Return what to do about a line to which this row of the NVLink5 table applies."""
    later = next((words for begins, words in _LATER if rule.investigatory.startswith(begins)), "ask the vendor")
    second = " If it comes again, reset the GPU." if rule.second_action == "RESET_GPU" else ""
    return f"{_AT_ONCE[rule.immediate]}{'; ' + later if later else ''}.{second}"


def _nvlink4(found: tuple[Cause, ...]) -> Read:
    if not found:
        return Read(evidence={"decoded": "no known bit is set"})
    harmless = all(cause in HARMLESS for cause in found)
    return Read(
        severity=Severity.WARNING if harmless else None,
        evidence={"causes": " ".join(cause.value for cause in found)},
        told="its registers point at " + ", ".join(_CAUSES[cause] for cause in found),
    )
