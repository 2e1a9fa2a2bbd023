"""What is wrong: health, findings and incidents."""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec

from gpuwarden.model.severity import EventClass, Severity
from gpuwarden.model.stamp import Stamp


class Health(enum.Enum):
    """The verdict on one GPU or the node. UNKNOWN is never reported as healthy."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


Evidence: TypeAlias = dict[str, str | int | float | bool | None]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What is true now about one GPU (`uuid`) or the host (`uuid` None). Field names in `evidence` carry units."""

    kind: str
    severity: Severity
    uuid: str | None
    evidence: Evidence = {}
    drill: bool = False


class Unsure(msgspec.Struct, frozen=True, kw_only=True):
    """A check could not tell: a reading it needs is absent for a reason other than NOT_SUPPORTED.

    Neither opens nor clears anything; the GPU's health is UNKNOWN unless something worse is known.
    """

    kind: str
    uuid: str | None
    refused: bool = False  # only because the driver refuses us the reading: a blind spot, said elsewhere


Verdict: TypeAlias = Finding | Unsure


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """A finding over time. Open from `opened` until it is removed from the state."""

    id: str  # "<boot id's first 8 characters>-<counter>"
    kind: str
    severity: Severity
    uuid: str | None
    opened: Stamp
    last_seen: Stamp
    count: int = 1
    latched: bool = False
    event_class: EventClass | None = None
    drill: bool = False
    flaps: int = 0
    evidence: Evidence = {}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of history: what the journal keeps, `/api/v1/events` shows and `gpuwarden events` prints.

    `kind` is finding, incident, case, action or request; `state` is opened, changed, cleared, seen, ...
    """

    kind: str
    name: str
    severity: str
    gpu: int | None
    uuid: str | None
    state: str
    time: float  # wall
    boot_id: str = ""
    evidence: Evidence = {}
    drill: bool = False
