"""What an Xid or SXid means, what is advised, and which Xids open a finding.

The facts are the CSV files in `data/`, one row per code with its source; nothing of them is repeated here. What this
module adds is judgement: `_MATTERS` says which codes open a finding, how long it stays and why. Tables are read from
disk on first use, so importing this module costs nothing.
"""

from __future__ import annotations

import csv
import enum
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from gpuwarden.model.severity import EventClass, Severity

_DATA = Path(__file__).with_name("data")
_Row = TypeVar("_Row")


class Advice(enum.Enum):
    """What is to be done about a code when nothing else is known."""

    IGNORE = "ignore"
    RESTART_APP = "restart_app"
    RESET_GPU = "reset_gpu"
    REBOOT_NODE = "reboot_node"
    WORKFLOW = "workflow"  # depends on what stands beside it: other codes, decoded words, the driver's recovery action
    CONTACT_SUPPORT = "contact_support"


class Fatal(enum.Enum):
    """Whether the GPU (or switch) can go on working after this code."""

    YES = "yes"
    NO = "no"
    DEPENDS = "depends"


class Xid(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the Xid catalogue. `known` is False for a code that this release has no row for."""

    code: int
    mnemonic: str
    summary: str
    category: str  # driver, hardware, nvlink, software, power, bus, thermal, unknown
    fatal: Fatal
    action: Advice
    severity: Severity
    gpu_generations: str = ""  # "": all
    source: str = ""
    known: bool = True


class XidBucket(msgspec.Struct, frozen=True, kw_only=True):
    """NVIDIA's own resolution buckets of one Xid, verbatim; empty where the catalogue has none."""

    code: int
    immediate: str = ""
    investigatory: str = ""
    xid154_from: str = ""  # driver branch from which an Xid 154 accompanies this code


class SXid(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the NVSwitch error catalogue."""

    code: int
    mnemonic: str
    summary: str
    category: str
    fatal: Fatal
    action: Advice
    severity: Severity
    fm_class: str = ""  # class in the Fabric Manager guide: fatal, non_fatal, always_fatal, other_notable
    bucket: str = ""  # NVSentinel's
    source: str = ""
    known: bool = True


class XidFinding(msgspec.Struct, frozen=True, kw_only=True):
    """How one Xid becomes a finding: kind `xid.xid_<code>`, its default severity, what ends it, and why so."""

    kind: str
    code: int | None  # None: the row that stands for every code unknown to this release
    severity: Severity
    event_class: EventClass
    title: str
    why: str


class XidExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything this release can say about one Xid, for `explain` and the API. `finding` is None: counted only."""

    xid: Xid
    bucket: XidBucket
    finding: XidFinding | None


class Catalogue(Mapping[int, _Row], Generic[_Row]):
    """A read-only table by code, read from its file on first use."""

    def __init__(self, load: Callable[[], dict[int, _Row]]) -> None:
        self._load = load
        self._rows: dict[int, _Row] | None = None

    def _loaded(self) -> dict[int, _Row]:
        if self._rows is None:
            self._rows = self._load()
        return self._rows

    def __getitem__(self, code: int) -> _Row:
        return self._loaded()[code]

    def __iter__(self) -> Iterator[int]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())


def _rows(name: str, renamed: Mapping[str, str], row: type[_Row]) -> list[_Row]:
    """Return a data file as records; columns a record does not have are left out.

    Raises: msgspec.ValidationError for a row that does not fit, OSError when the package's own data is missing.
    """
    with (_DATA / name).open(encoding="utf-8", newline="") as lines:
        raw = [{renamed.get(key, key): value for key, value in line.items()} for line in csv.DictReader(lines)]
    return msgspec.convert(raw, list[row], strict=False)  # type: ignore[valid-type]


def _load_xids() -> dict[int, Xid]:
    return {row.code: row for row in _rows("xids.csv", {"page_severity": "severity"}, Xid)}


def _load_buckets() -> dict[int, XidBucket]:
    renamed = {
        "nvidia_immediate": "immediate",
        "nvidia_investigatory": "investigatory",
        "xid154_linkage_from": "xid154_from",
    }
    return {row.code: row for row in _rows("xid_buckets.csv", renamed, XidBucket)}


def _load_sxids() -> dict[int, SXid]:
    renamed = {"page_severity": "severity", "nvsentinel_bucket": "bucket"}
    return {row.code: row for row in _rows("sxids.csv", renamed, SXid)}


XIDS: Mapping[int, Xid] = Catalogue(_load_xids)
BUCKETS: Mapping[int, XidBucket] = Catalogue(_load_buckets)
SXIDS: Mapping[int, SXid] = Catalogue(_load_sxids)


class _Group(msgspec.Struct, frozen=True, kw_only=True):
    """Codes that become findings for one reason. `severity` None takes each code's from the catalogue."""

    codes: tuple[int, ...]
    event_class: EventClass
    why: str
    severity: Severity | None = None


_MATTERS: tuple[_Group, ...] = (
    _Group(
        codes=(46, 48, 54, 62, 64, 74, 79, 95, 110, 119, 120, 136, 140, 143, 150, 151, 156, 158, 167, 169, 173, 175),
        event_class=EventClass.RESET,
        why="The GPU, or its link, does not work right again before it or the node starts over.",
    ),
    _Group(
        codes=(154,),
        event_class=EventClass.RECOVERY,
        why="The driver's own verdict; it ends when the driver takes it back (target 0, or the reading says none).",
    ),
    _Group(
        codes=(63, 94, 155, 157, 160, 161, 168, 171, 172, 185),
        event_class=EventClass.RESET,
        severity=Severity.WARNING,
        why="Work may go on, but a repair waits for the next reset or a spare is used up: no new work before that. "
        "63 is `ignore` in the catalogue only because nothing has to be done at once.",
    ),
    _Group(
        codes=(57, 58, 59, 61, 90),
        event_class=EventClass.RESET,
        severity=Severity.WARNING,
        why="Retired since Ampere, still written for older boards (T4, V100, GeForce 10 and 20), where they are "
        "hardware or its micro-controller at fault.",
    ),
    _Group(
        codes=(144, 145, 146, 147, 148, 149, 159, 166, 170),
        event_class=EventClass.APPLICATION,
        severity=Severity.WARNING,
        why="NVLink5 and C2C codes carry several dozen sub-codes from harmless to fatal. The words of an NVLink5 line "
        "say which: critical until a reset where the link needs one, a warning where the other end is to blame, no "
        "finding where there is nothing to do. A line without readable words asks for a look.",
    ),
    _Group(
        codes=(32, 80, 92, 109, 165),
        event_class=EventClass.APPLICATION,
        severity=Severity.WARNING,
        why="One job is hit and can be started again, but the cause may be hardware: PCIe signal quality (32, 80), a "
        "high corrected-error rate (92), a context switch that did not end (109: the catalogue says reset, the "
        "Kubernetes device plugin takes it as the application's; from R570 on a 154 tells), used-up parts (165).",
    ),
    _Group(
        codes=(8, 11, 13, 25, 31, 38, 68, 69, 78, 108, 137),
        event_class=EventClass.APPLICATION,
        severity=Severity.INFO,
        why="The application's own fault until it repeats on one GPU (then `xid.xid_storm` says so). The Kubernetes "
        "device plugin ignores these too: seen, never paged.",
    ),
)
"""Which codes open a finding. Every code is counted; those not named here are only counted, because they follow from
another code (43, 45), are corrected or announced by design (14, 93, 106, 107, 121, 162, 174, 176), belong to one
application's video, copy or JPEG engine, or are display and power messages that no board since 2020 writes."""

UNKNOWN_FINDING = XidFinding(
    kind="xid.xid_unknown",
    code=None,
    severity=Severity.WARNING,
    event_class=EventClass.APPLICATION,
    title="Xid unknown to this release",
    why="A newer driver knows more codes than this release; an unknown code is never taken as harmless.",
)


@cache
def _findings() -> dict[int, XidFinding]:
    return {
        code: XidFinding(
            kind=f"xid.xid_{code}",
            code=code,
            severity=group.severity or XIDS[code].severity,
            event_class=group.event_class,
            title=f"Xid {code}: {XIDS[code].summary}",
            why=group.why,
        )
        for group in _MATTERS
        for code in group.codes
    }


def xid_findings() -> tuple[XidFinding, ...]:
    """Return every finding an Xid can open, by code, the one for unknown codes last: the rows of the kind catalogue."""
    return (*(_findings()[code] for code in sorted(_findings())), UNKNOWN_FINDING)


def finding_of(code: int) -> XidFinding | None:
    """Return the finding this Xid opens, or None for a code that is only counted."""
    if code not in XIDS:
        return UNKNOWN_FINDING
    return _findings().get(code)


def describe(code: int) -> Xid:
    """Return the catalogue row of an Xid; for a code this release does not know, a row that says so."""
    return XIDS.get(code) or Xid(
        code=code,
        mnemonic="UNKNOWN",
        summary="Not in this release's catalogue; look it up in the documentation of the installed driver",
        category="unknown",
        fatal=Fatal.DEPENDS,
        action=Advice.CONTACT_SUPPORT,
        severity=Severity.WARNING,
        known=False,
    )


def describe_sxid(code: int) -> SXid:
    """Return the catalogue row of an SXid; for a code this release does not know, a row that says so."""
    return SXIDS.get(code) or SXid(
        code=code,
        mnemonic="UNKNOWN",
        summary="Not in this release's catalogue; look it up in the Fabric Manager guide of the installed driver",
        category="unknown",
        fatal=Fatal.DEPENDS,
        action=Advice.CONTACT_SUPPORT,
        severity=Severity.WARNING,
        known=False,
    )


def sxid_is_fatal(code: int, printed: str | None) -> bool:
    """Return whether an SXid stops its link or switch. `printed` is the line's own word ("fatal", "nonfatal") or None.

    The driver's word wins; without it the catalogue decides, and what it leaves open (or does not know) counts as
    not fatal: its fatal twin line follows when it was.
    """
    if printed in ("fatal", "nonfatal"):
        return printed == "fatal"
    return describe_sxid(code).fatal is Fatal.YES


def bucket(code: int) -> XidBucket:
    """Return NVIDIA's buckets of an Xid; empty ones where the catalogue has none."""
    return BUCKETS.get(code) or XidBucket(code=code)


def explain_xid(code: int) -> XidExplanation:
    """Return everything this release can say about one Xid."""
    return XidExplanation(xid=describe(code), bucket=bucket(code), finding=finding_of(code))
