"""What the kernel log and NVML's events tell: counted once, put on the right GPU, and passed on as sightings.

A kernel line and an NVML event about the same (GPU, code) within two seconds are one event; two lines are two. A line
the kernel did not write itself is counted and shown as the user's, and can be a drill at most: what NVML then says of
the same Xid is no further event, but it is the driver's word.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from gpuwarden.model.finding import Event, Evidence
from gpuwarden.model.observation import KernelLogged, LineKind, NvmlEvent
from gpuwarden.model.severity import Severity
from gpuwarden.model.snapshot import GpuState, NodeState, XidCount
from gpuwarden.model.step import Command, QuietGpu
from gpuwarden.model.tally import NO_INSTANCE
from gpuwarden.model.xid import finding_of, sxid_is_fatal
from gpuwarden.policy import aer
from gpuwarden.policy.gpus import at_bdf, put, slot_address
from gpuwarden.policy.tallies import saw_xid

ECHO_SECONDS = 2.0
_STORM_SECONDS = 60.0
_MOST_CODES = 64  # different Xids counted per GPU; further ones are counted together as Xid 0
_PROBE_AT = frozenset({79, 119, 120})  # after these a call into the driver may never return
_KMSG, _NVML, _USER = "kmsg", "nvml", "user"
_OTHERS = {_KMSG: (_NVML,), _USER: (_NVML,), _NVML: (_KMSG, _USER)}
"""Whose word about an Xid can be the same event as whose."""
_RECOVERY_CHANGED = 154


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """An event finding to latch (or, with `ends`, one that the same event ends)."""

    kind: str
    uuid: str | None
    evidence: Evidence = {}
    count: int = 1
    drill: bool = False
    ends: bool = False


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What one kernel line or NVML event comes to."""

    node: NodeState
    sightings: tuple[Sighting, ...] = ()
    events: tuple[Event, ...] = ()
    commands: tuple[Command, ...] = ()


def logged(node: NodeState, line: KernelLogged) -> Told:
    """Return what a recognised kernel line comes to. A line that is history is counted and shown, nothing more."""
    match line.kind:
        case LineKind.XID:
            return _xid_line(node, line)
        case LineKind.SXID:
            return _sxid_line(node, line)
        case LineKind.INIT_FAILED:
            return _plain(node, line, "presence.init_failed", {"text": line.text})
        case LineKind.HUNG_TASK:
            return _plain(node, line, "host.hung_task", {"text": line.text, "task": line.fields.get("task", "")})
        case LineKind.FALLEN_OFF_BUS:
            return Told(node=node, events=(_event(node, line, "fallen_off_bus"),), commands=_probe(node, line))
        case LineKind.AER:
            return Told(node=aer.logged(node, line), events=(_aer_event(node, line),))
        case LineKind.OTHER_NVRM:
            return Told(node=node)


def delivered(node: NodeState, event: NvmlEvent) -> Told:
    """Return what an event of the NVML session comes to: Xids count; of the rest the readings tell within seconds."""
    if event.kind != "xid":
        return Told(node=node)
    address = slot_address(event.bdf)
    forged = _alone(node, address, event.code, _USER) > 0
    node, fresh = _once(node, address, event.code, _NVML, 1)
    if not fresh and not forged:
        return Told(node=node)
    evidence: Evidence = {"witness": _NVML, "pci": address}
    if event.gi is not None:
        evidence["gi"] = event.gi
    return _xid(node, _Xid(event.code, address, fresh, evidence, "driver", node.now.wall, drill=False))


class _Xid(msgspec.Struct, frozen=True):
    code: int
    address: str
    count: int
    evidence: Evidence
    source: str
    wall: float
    drill: bool
    history: bool = False
    recovery_to: str | None = None


def _xid_line(node: NodeState, line: KernelLogged) -> Told:
    address, code = line.bdf or "", line.code or 0
    witness = _KMSG if line.from_kernel else _USER
    node, fresh = _once(node, address, code, witness, line.count) if _is_new(line) else (node, line.count)
    evidence: Evidence = {"witness": witness, "pci": address, "text": line.text}
    if line.pid is not None:
        evidence["pid"] = line.pid
    evidence |= {
        key: line.fields[key] for key in ("gi", "ci", "caused_by", "recovery_to", "link") if key in line.fields
    }
    seen = _event(node, line, f"xid_{code}", fresh)
    if not fresh:
        return Told(node=node, events=(seen,))
    xid = _Xid(
        code,
        address,
        fresh,
        evidence,
        "driver" if line.from_kernel else "user",
        line.at.wall - line.age_seconds,
        drill=line.drill or not line.from_kernel,
        history=line.history,
        recovery_to=line.fields.get("recovery_to"),
    )
    told = _xid(node, xid)
    return replace(told, events=(seen, *told.events))


def _xid(node: NodeState, xid: _Xid) -> Told:
    gpu = at_bdf(node, xid.address)
    if xid.count:
        node = _count(node, gpu, xid)
    if xid.history:
        return Told(node=node)
    uuid = gpu.identity.uuid if gpu is not None else None
    if uuid is not None and xid.source == "driver":
        seen = saw_xid(node.gpus[uuid], _instance(xid.evidence), xid.code, xid.count, node.now.boottime)
        node = put(node, seen)
    found = finding_of(xid.code)
    sightings = [] if found is None else [_sighting(node, uuid, xid, found.kind)]
    if gpu is not None:
        node, storm = _storm(node, node.gpus[gpu.identity.uuid], xid)
        sightings += storm
    commands = () if xid.code not in _PROBE_AT or xid.drill or gpu is None else (QuietGpu(gpu.identity.bdf),)
    return Told(node=node, sightings=tuple(sightings), commands=commands)


def _instance(evidence: Evidence) -> int:
    """Return the MIG GPU instance an Xid is about."""
    named = str(evidence.get("gi", ""))
    return int(named) if named.isdecimal() else NO_INSTANCE


def _sighting(node: NodeState, uuid: str | None, xid: _Xid, kind: str) -> Sighting:
    """Return what an Xid that matters is a sighting of: itself, the end of a 154, or a comment on its cause."""
    evidence = {"xid": xid.code, **xid.evidence}
    if xid.code == _RECOVERY_CHANGED:
        if xid.recovery_to == "0":
            return Sighting(kind=kind, uuid=uuid, evidence=evidence, drill=xid.drill, ends=True)
        cause = _echo_of(node, uuid, kind, drill=xid.drill or node.drill)
        if cause is not None:
            comment: Evidence = {"recovery_to": xid.recovery_to}
            return Sighting(kind=cause, uuid=uuid, evidence=comment, count=0, drill=xid.drill)
    return Sighting(kind=kind, uuid=uuid, evidence=evidence, count=xid.count, drill=xid.drill)


def _echo_of(node: NodeState, uuid: str | None, own_kind: str, *, drill: bool) -> str | None:
    """Return the kind of the open Xid finding that an Xid 154 only comments on; a real one comments on no drill."""
    recent = [
        kind
        for (kind, name), incident in node.incidents.items()
        if name == (uuid or "")
        and kind.startswith("xid.xid_")
        and kind not in (own_kind, "xid.xid_storm")
        and incident.last_seen.boot_id == node.now.boot_id
        and node.now.boottime - incident.last_seen.boottime <= ECHO_SECONDS
        and (drill or not incident.drill)
    ]
    return recent[-1] if recent else None


def _storm(node: NodeState, gpu: GpuState, xid: _Xid) -> tuple[NodeState, list[Sighting]]:
    began, number = gpu.xid_burst
    if node.now.boottime - began > _STORM_SECONDS:
        began, number = node.now.boottime, 0
    number += xid.count
    node = put(node, replace(gpu, xid_burst=(began, number)))
    if number < node.settings.kinds["xid.xid_storm"].thresholds["events"]:
        return node, []
    evidence: Evidence = {"xid": xid.code, "events": number, "window_seconds": _STORM_SECONDS}
    return node, [
        Sighting(kind="xid.xid_storm", uuid=gpu.identity.uuid, evidence=evidence, count=xid.count, drill=xid.drill)
    ]


def _count(node: NodeState, gpu: GpuState | None, xid: _Xid) -> NodeState:
    kept = gpu.xids if gpu is not None else node.unclaimed_xids.get(xid.address, ())
    counts = {(row.xid, row.source): row for row in kept}
    key = (xid.code, xid.source)
    if key not in counts and len(counts) >= _MOST_CODES:
        key = (0, xid.source)
    had = counts.get(key, XidCount(xid=key[0], source=key[1], total=0, last=0.0))
    counts[key] = replace(had, total=had.total + xid.count, last=max(had.last, xid.wall))
    rows = tuple(counts.values())
    if gpu is not None:
        return put(node, replace(gpu, xids=rows))
    if xid.address not in node.unclaimed_xids and len(node.unclaimed_xids) >= _MOST_CODES:
        return node
    return replace(node, unclaimed_xids=node.unclaimed_xids | {xid.address: rows})


def _is_new(line: KernelLogged) -> bool:
    """Return whether NVML can be telling of the same now: what a look back finds is older than that."""
    return not line.history and line.age_seconds <= ECHO_SECONDS


def _once(node: NodeState, address: str, code: int, witness: str, count: int) -> tuple[NodeState, int]:
    """Return the node, and how many of `count` events no other witness has told already."""
    now, fresh = node.now.boottime, count
    recent = dict(node.recent)
    for other in _OTHERS[witness]:
        matched = min(_alone(node, address, code, other), fresh)
        if matched:
            at, alone = recent[address, code, other]
            recent[address, code, other] = (at, alone - matched)
            fresh -= matched
    recent[address, code, witness] = (now, _alone(node, address, code, witness) + fresh)
    return replace(node, recent=recent), fresh


def _alone(node: NodeState, address: str, code: int, witness: str) -> int:
    """Return how many events one witness told just now that no other has told."""
    at, alone = node.recent.get((address, code, witness), (float("-inf"), 0))
    return alone if node.now.boottime - at <= ECHO_SECONDS else 0


def forgotten(node: NodeState) -> NodeState:
    """Return the node without sightings too old to be the same event as one that comes now."""
    kept = {key: seen for key, seen in node.recent.items() if node.now.boottime - seen[0] <= ECHO_SECONDS}
    return node if len(kept) == len(node.recent) else replace(node, recent=kept)


def _sxid_line(node: NodeState, line: KernelLogged) -> Told:
    if line.fields.get("part", "head") != "head":
        return Told(node=node, events=(_event(node, line, "sxid_detail"),))
    code = line.code or 0
    fatal = sxid_is_fatal(code, line.fields.get("severity"))
    label = "yes" if fatal else "no"
    key = (code, label)
    if key not in node.sxids and len(node.sxids) >= _MOST_CODES:
        key = (0, label)
    node = replace(node, sxids=node.sxids | {key: node.sxids.get(key, 0) + line.count})
    events = (_event(node, line, f"sxid_{code}"),)
    if line.history:
        return Told(node=node, events=events)
    sighting = Sighting(
        kind="xid.sxid_fatal" if fatal else "xid.sxid_nonfatal",
        uuid=None,
        evidence={"sxid": code, "pci": line.bdf, "text": line.text},
        count=line.count,
        drill=line.drill or not line.from_kernel,
    )
    return Told(node=node, sightings=(sighting,), events=events)


def _plain(node: NodeState, line: KernelLogged, kind: str, evidence: Evidence) -> Told:
    """Return a line that is one sighting of one kind, on the GPU it names if it names one."""
    gpu = at_bdf(node, line.bdf) if line.bdf else None
    events = (_event(node, line, kind.partition(".")[2]),)
    if line.history:
        return Told(node=node, events=events)
    sighting = Sighting(
        kind=kind,
        uuid=gpu.identity.uuid if gpu is not None else None,
        evidence=evidence | ({"pci": line.bdf} if line.bdf else {}),
        count=line.count,
        drill=line.drill or not line.from_kernel,
    )
    return Told(node=node, sightings=(sighting,), events=events)


def _probe(node: NodeState, line: KernelLogged) -> tuple[Command, ...]:
    gpu = at_bdf(node, line.bdf) if line.bdf else None
    if gpu is None or line.history or line.drill or not line.from_kernel:
        return ()
    return (QuietGpu(gpu.identity.bdf),)


def _aer_event(node: NodeState, line: KernelLogged) -> Event:
    """Return the event of a PCIe error; one of a bridge is about the GPUs below it."""
    told = _event(node, line, "aer")
    below = aer.concerned(node, line.bdf or "")
    if not below or told.gpu is not None:
        return told
    about: Evidence = {"gpus_below": ", ".join(str(gpu.index) for gpu in below)}
    one = below[0] if len(below) == 1 else None
    return replace(
        told,
        gpu=one.index if one is not None else None,
        uuid=one.identity.uuid if one is not None else None,
        evidence=told.evidence | about,
    )


def _event(node: NodeState, line: KernelLogged, name: str, counted: int | None = None) -> Event:
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
        drill=line.drill or not line.from_kernel,
    )
