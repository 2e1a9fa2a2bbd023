"""Xids: counted, put on the right GPU, and told as sightings of findings; echoes of one fault become one incident."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from gpuwarden.model.finding import Evidence, Incident
from gpuwarden.model.nvlink5 import NVLINK5_XIDS
from gpuwarden.model.observation import KernelLogged, NvmlEvent
from gpuwarden.model.severity import EventClass, worse
from gpuwarden.model.snapshot import GpuState, NodeState, XidCount
from gpuwarden.model.step import QuietGpu
from gpuwarden.model.tally import NO_INSTANCE
from gpuwarden.model.xid import finding_of
from gpuwarden.model.xid_line import NOTHING, RECOVERY_CHANGED, Read, read_line
from gpuwarden.policy import xid_counts
from gpuwarden.policy.gpus import at_bdf, put, slot_address
from gpuwarden.policy.tallies import saw_xid
from gpuwarden.policy.told import Sighting, Told, is_drill, seen
from gpuwarden.policy.xid_counts import DRIVER, ECHO_SECONDS, FORGED, KMSG, NVML, STORM_SECONDS, USER

_PROBE_AT = frozenset({79, 119, 120})  # after these a call into the driver may never return
_FOLLOWERS = frozenset({43, 45, RECOVERY_CHANGED})  # written in numbers after something else: no storm of their own
_TEXT_DECIDES = frozenset(NVLINK5_XIDS)  # harmless or fatal by the words of the line, which NVML does not deliver
_RATE_LIMITED = 119
_CAUSED = "xid.xid_"
_STORM = "xid.xid_storm"
_INSTANCE = ("gi", "ci")


class _Xid(msgspec.Struct, frozen=True, kw_only=True):
    """One Xid told by one witness. `count` is what of it is new, `told` what the witness said.

    `vouches`: NVML's word for what so far only a line had told that anybody could have written.
    """

    code: int
    address: str
    count: int
    told: int
    witness: str
    wall: float
    drill: bool
    evidence: Evidence
    pid: int | None = None
    history: bool = False
    vouches: bool = False
    fields: Mapping[str, str] = {}
    read: Read = NOTHING

    @property
    def source(self) -> str:
        return USER if self.witness == FORGED else DRIVER


def line_told(node: NodeState, line: KernelLogged) -> Told:
    """Return what an Xid line comes to."""
    address, code = line.bdf or "", line.code or 0
    witness = KMSG if line.from_kernel else FORGED
    node, fresh = xid_counts.once(node, address, code, witness, line.count) if _is_new(line) else (node, line.count)
    evidence: Evidence = {"witness": witness, "pci": address, "text": line.text}
    if line.pid is not None:
        evidence["pid"] = line.pid
    evidence |= {key: int(line.fields[key]) for key in _INSTANCE if line.fields.get(key, "").isdecimal()}
    if "caused_by" in line.fields:
        evidence["caused_by"] = line.fields["caused_by"]
    xid = _Xid(
        code=code,
        address=address,
        count=fresh,
        told=line.count,
        witness=witness,
        wall=line.at.wall - line.age_seconds,
        drill=is_drill(line),
        evidence=evidence,
        pid=line.pid,
        history=line.history,
        fields=line.fields,
        read=read_line(code, line.fields, node.module_version or node.nvml.driver),
    )
    told = _xid(node, xid)
    return replace(told, events=(seen(node, line, f"xid_{code}", fresh), *told.events))


def event_told(node: NodeState, event: NvmlEvent) -> Told:
    """Return what an Xid that NVML delivered comes to: its number is all that is known of it."""
    address = slot_address(event.bdf)
    vouches = xid_counts.alone(node, address, event.code, FORGED) > 0
    node, fresh = xid_counts.once(node, address, event.code, NVML, 1)
    if not fresh and not vouches:
        return Told(node=node)
    evidence: Evidence = {"witness": NVML, "pci": address}
    if event.gi is not None:
        evidence["gi"] = event.gi
    if event.ci is not None:
        evidence["ci"] = event.ci
    return _xid(
        node,
        _Xid(
            code=event.code,
            address=address,
            count=fresh,
            told=fresh,
            witness=NVML,
            wall=node.now.wall,
            drill=False,
            evidence=evidence,
            vouches=vouches,
        ),
    )


def _is_new(line: KernelLogged) -> bool:
    """Return whether NVML can be telling of the same now: what a look back finds is older than that."""
    return not line.history and line.age_seconds <= ECHO_SECONDS


def rate_limited(node: NodeState, line: KernelLogged) -> Told:
    """Return what the driver's word comes to that it prints only one of so many GSP time-outs from here on."""
    gpu = at_bdf(node, line.bdf) if line.bdf else None
    told = Told(node=node, events=(seen(node, line, "xid_119_rate_limited"),))
    if line.history:
        return told
    evidence: Evidence = {
        "pci": line.bdf,
        "printed_one_of": int(line.fields["one_of"]),
        "count_is": "at least: the driver prints only some of these lines",
    }
    uuid = gpu.identity.uuid if gpu is not None else None
    kind = f"{_CAUSED}{_RATE_LIMITED}"
    return replace(told, sightings=(Sighting(kind=kind, uuid=uuid, evidence=evidence, count=0, drill=is_drill(line)),))


def unconfirmed(node: NodeState) -> Told:
    """Return what is due at a tick: sightings too old to be told again are forgotten.

    What NVML named, and no line has explained since, is taken for what its number says.
    """
    sightings = []
    for (address, code, witness), (at, alone) in node.recent.items():
        if witness == NVML and code in _TEXT_DECIDES and alone and node.now.boottime - at > ECHO_SECONDS:
            gpu = at_bdf(node, address)
            found = finding_of(code)
            if found is not None and gpu is not None and node.kmsg_up:
                evidence: Evidence = {"xid": code, "witness": NVML, "pci": address, "decoded": "no line came with it"}
                sightings.append(Sighting(kind=found.kind, uuid=gpu.identity.uuid, evidence=evidence, count=alone))
    kept = {key: told for key, told in node.recent.items() if node.now.boottime - told[0] <= ECHO_SECONDS}
    if len(kept) != len(node.recent):
        node = replace(node, recent=kept)
    return Told(node=node, sightings=tuple(sightings))


def _xid(node: NodeState, xid: _Xid) -> Told:
    gpu = at_bdf(node, xid.address)
    if xid.count:
        row = XidCount(xid=xid.code, source=xid.source, total=xid.count, last=xid.wall)
        node = xid_counts.counted(node, gpu, xid.address, row)
    if xid.history:
        return Told(node=node)
    uuid = gpu.identity.uuid if gpu is not None else None
    news = bool(xid.count) or xid.vouches
    if uuid is not None and xid.source == DRIVER and news:
        node = put(node, saw_xid(node.gpus[uuid], _instance(xid.evidence), xid.code, xid.count, node.now.boottime))
    sightings = _sightings(node, uuid, xid)
    if gpu is not None and xid.count and not xid.drill and xid.code not in _FOLLOWERS:
        node, storm = _storm(node, node.gpus[gpu.identity.uuid], xid)
        sightings += storm
    probed = xid.code in _PROBE_AT and news and not xid.drill
    commands = (QuietGpu(gpu.identity.bdf),) if probed and gpu is not None else ()
    return Told(node=node, sightings=tuple(sightings), commands=commands)


def _instance(evidence: Evidence) -> int:
    """Return the MIG GPU instance an Xid is about."""
    named = str(evidence.get("gi", ""))
    return int(named) if named.isdecimal() else NO_INSTANCE


def _sightings(node: NodeState, uuid: str | None, xid: _Xid) -> list[Sighting]:
    """Return what an Xid is a sighting of: itself, a comment on what it follows from, the end of a 154, nothing."""
    if xid.code == RECOVERY_CHANGED:
        return _recovery(node, uuid, xid)
    sightings = []
    if (cause := finding_of(int(xid.fields["caused_by"])) if "caused_by" in xid.fields else None) is not None:
        comment: Evidence = {"followed_by_xid": xid.code}
        sightings.append(
            Sighting(kind=cause.kind, uuid=uuid, evidence=comment, count=0, drill=xid.drill, only_open=True)
        )
    found = finding_of(xid.code)
    if found is None or xid.read.counted_only:
        return sightings
    explained = xid.code in _TEXT_DECIDES and xid.witness != NVML
    if xid.code in _TEXT_DECIDES and xid.witness == NVML and node.kmsg_up and not xid.vouches:
        return sightings  # its line is on its way and says what it is
    evidence: Evidence = {"xid": xid.code, **xid.evidence, **xid.read.evidence}
    if xid.code == _RATE_LIMITED:
        evidence["count_is"] = "at least: the driver prints only some of these lines"
    sighting = Sighting(
        kind=found.kind,
        uuid=uuid,
        evidence=evidence,
        count=xid.told if explained else xid.count,
        drill=xid.drill,
        severity=xid.read.severity,
        event_class=xid.read.event_class,
        only_open=not (xid.count or explained),
        settles=not xid.count and not xid.vouches,
    )
    return [*sightings, *_with_recovery(node, sighting, found.event_class)]


def _recovery(node: NodeState, uuid: str | None, xid: _Xid) -> list[Sighting]:
    """Return what a changed recovery action says. NVML delivers it without its value: the reading has that."""
    if xid.witness == NVML:
        return []
    kind = f"{_CAUSED}{RECOVERY_CHANGED}"
    evidence: Evidence = {"xid": xid.code, **xid.evidence, **xid.read.evidence}
    if xid.fields.get("recovery_to") == "0":
        return [Sighting(kind=kind, uuid=uuid, evidence=evidence, drill=xid.drill, ends=True)]
    cause = _cause_of(node, uuid, xid.fields.get("recovery_from", ""), forged=xid.drill)
    if cause is not None:
        return [
            Sighting(
                kind=cause.kind,
                uuid=uuid,
                evidence=xid.read.evidence,
                count=0,
                drill=xid.drill,
                severity=xid.read.severity,
                event_class=EventClass.RECOVERY,
                only_open=True,
            )
        ]
    return [
        Sighting(kind=kind, uuid=uuid, evidence=evidence, count=xid.told, drill=xid.drill, severity=xid.read.severity)
    ]


def _cause_of(node: NodeState, uuid: str | None, before: str, *, forged: bool) -> Incident | None:
    """Return the open Xid incident an Xid 154 comments on: one just seen, or the one the verdict before was about.

    What is real comments on no drill, and what somebody may have forged on nothing that is real.
    """
    found = None
    for (kind, name), incident in node.incidents.items():
        if name != (uuid or "") or not kind.startswith(_CAUSED) or kind in (_STORM, f"{_CAUSED}{RECOVERY_CHANGED}"):
            continue
        same_verdict = before not in ("", "0") and str(incident.evidence.get("recovery_to")) == before
        fits = incident.drill if forged else node.drill or not incident.drill
        if fits and (_just_seen(node, incident) or same_verdict):
            found = incident
    return found


def _with_recovery(node: NodeState, sighting: Sighting, kinds_class: EventClass) -> list[Sighting]:
    """Return a sighting, and where the driver's verdict came just before the line it is about, the two as one."""
    kind = f"{_CAUSED}{RECOVERY_CHANGED}"
    verdict = node.incidents.get((kind, sighting.uuid or ""))
    causes = (sighting.event_class or kinds_class) is EventClass.RESET and not sighting.drill
    if verdict is None or (verdict.drill and not node.drill) or not causes or not _just_seen(node, verdict):
        return [sighting]
    told = {key: verdict.evidence.get(key) for key in ("recovery_action", "recovery_to", "recovery_advice")}
    severity = worse(sighting.severity or node.settings.kinds[sighting.kind].severity, verdict.severity)
    ended: Evidence = {"reason": f"belongs to {sighting.kind}"}
    return [
        replace(sighting, evidence=sighting.evidence | told, severity=severity),
        Sighting(kind=kind, uuid=sighting.uuid, evidence=ended, ends=True),
    ]


def _just_seen(node: NodeState, incident: Incident) -> bool:
    same_boot = incident.last_seen.boot_id == node.now.boot_id
    return same_boot and node.now.boottime - incident.last_seen.boottime <= ECHO_SECONDS


def _storm(node: NodeState, gpu: GpuState, xid: _Xid) -> tuple[NodeState, list[Sighting]]:
    node, number = xid_counts.burst(node, gpu, xid.code, xid.pid, xid.count)
    if number < node.settings.kinds[_STORM].thresholds["events"]:
        return node, []
    evidence: Evidence = {"xid": xid.code, "events": number, "window_seconds": STORM_SECONDS}
    return node, [Sighting(kind=_STORM, uuid=gpu.identity.uuid, evidence=evidence, count=xid.count, drill=xid.drill)]
