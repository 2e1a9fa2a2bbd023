"""What one line of the kernel log, or one event of the NVML session, comes to."""

from __future__ import annotations

import msgspec

from gpuwarden.model.finding import Event, Evidence
from gpuwarden.model.observation import KernelLogged
from gpuwarden.model.severity import EventClass, Severity
from gpuwarden.model.snapshot import NodeState
from gpuwarden.model.step import Command
from gpuwarden.policy.gpus import at_bdf


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """An event finding to latch, or with `ends` one that the same event ends.

    `severity` and `event_class` None: as the kind has them. `only_open`: a comment on an incident that is open, and
    nothing where none is. `settles`: the full account of what was only named before, so that its grade counts.
    """

    kind: str
    uuid: str | None
    evidence: Evidence = {}
    count: int = 1
    drill: bool = False
    ends: bool = False
    severity: Severity | None = None
    event_class: EventClass | None = None
    only_open: bool = False
    settles: bool = False


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What one kernel line or NVML event comes to."""

    node: NodeState
    sightings: tuple[Sighting, ...] = ()
    events: tuple[Event, ...] = ()
    commands: tuple[Command, ...] = ()


def seen(node: NodeState, line: KernelLogged, name: str, counted: int | None = None) -> Event:
    """Return the line of history of a kernel line. `counted`: how many of it the other witness had not told yet."""
    gpu = at_bdf(node, line.bdf) if line.bdf else None
    evidence: Evidence = {"text": line.text, "pci": line.bdf, "count": line.count}
    if counted is not None and counted != line.count:
        evidence["already_counted"] = line.count - counted
    if not line.from_kernel:
        evidence["source"] = "user"
    return Event(
        kind="finding",
        name=name,
        severity=Severity.INFO.value,
        gpu=gpu.index if gpu is not None else None,
        uuid=gpu.identity.uuid if gpu is not None else None,
        state="history" if line.history else "seen",
        time=line.at.wall - line.age_seconds,
        boot_id=line.at.boot_id,
        evidence=evidence,
        drill=is_drill(line),
    )


def is_drill(line: KernelLogged) -> bool:
    """Return whether a line can be a drill at most: somebody rehearses, or not the kernel wrote it."""
    return line.drill or not line.from_kernel
