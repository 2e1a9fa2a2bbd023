"""What the kernel log and NVML's events tell: counted once, put on the right GPU, and passed on as sightings.

A kernel line and an NVML event about the same (GPU, code) within two seconds are one event; two lines are two. A line
the kernel did not write itself is counted and shown as the user's, and can be a drill at most: what NVML then says of
the same Xid is no further event, but it is the driver's word.
"""

from __future__ import annotations

from msgspec.structs import replace

from gpuwarden.model.finding import Event, Evidence
from gpuwarden.model.observation import KernelLogged, LineKind, NvmlEvent
from gpuwarden.model.snapshot import NodeState
from gpuwarden.model.step import Command, QuietGpu
from gpuwarden.model.xid import describe_sxid, sxid_is_fatal
from gpuwarden.policy import aer, xids
from gpuwarden.policy.gpus import at_bdf
from gpuwarden.policy.told import Sighting, Told, is_drill, seen

_MOST_SXIDS = 64  # different SXids counted; further ones, and those of lines nobody vouches for, are counted as OTHER
_OTHER = 0


def logged(node: NodeState, line: KernelLogged) -> Told:
    """Return what a recognised kernel line comes to. A line that is history is counted and shown, nothing more."""
    match line.kind:
        case LineKind.XID:
            return xids.line_told(node, line)
        case LineKind.SXID:
            return _sxid_line(node, line)
        case LineKind.INIT_FAILED:
            told = _plain(node, line, "presence.init_failed", ("status",))
            return told if "status" in line.fields else _commenting(told)  # one failure writes a second line
        case LineKind.HUNG_TASK:
            return _plain(node, line, "host.hung_task", ("task", "seconds"))
        case LineKind.FALLEN_OFF_BUS:
            return Told(node=node, events=(seen(node, line, "fallen_off_bus"),), commands=_probe(node, line))
        case LineKind.AER:
            return Told(node=aer.logged(node, line), events=(_aer_event(node, line),))
        case LineKind.OTHER_NVRM:
            return xids.rate_limited(node, line) if "one_of" in line.fields else Told(node=node)


def delivered(node: NodeState, event: NvmlEvent) -> Told:
    """Return what an event of the NVML session comes to: Xids count; of the rest the readings tell within seconds."""
    return xids.event_told(node, event) if event.kind == "xid" else Told(node=node)


def _sxid_line(node: NodeState, line: KernelLogged) -> Told:
    """Return what an NVSwitch line comes to. One error prints several; only its first, which says how bad, counts."""
    if line.fields.get("part", "head") != "head":
        return Told(node=node, events=(seen(node, line, "sxid_detail"),))
    code = line.code or 0
    fatal = sxid_is_fatal(code, line.fields.get("severity"))
    key = (code, "yes" if fatal else "no")
    if not line.from_kernel or (key not in node.sxids and len(node.sxids) >= _MOST_SXIDS):
        key = (_OTHER, key[1])
    node = replace(node, sxids=node.sxids | {key: node.sxids.get(key, 0) + line.count})
    told = Told(node=node, events=(seen(node, line, f"sxid_{code}"),))
    if line.history:
        return told
    row = describe_sxid(code)
    evidence: Evidence = {"sxid": code, "pci": line.bdf, "text": line.text, "means": row.summary}
    evidence |= {name: line.fields[name] for name in ("switch", "link") if name in line.fields}
    sighting = Sighting(
        kind="xid.sxid_fatal" if fatal else "xid.sxid_nonfatal",
        uuid=None,
        evidence=evidence,
        count=line.count,
        drill=is_drill(line),
    )
    return replace(told, sightings=(sighting,))


def _plain(node: NodeState, line: KernelLogged, kind: str, fields: tuple[str, ...]) -> Told:
    """Return a line that is one sighting of one kind, on the GPU it names if it names one."""
    gpu = at_bdf(node, line.bdf) if line.bdf else None
    told = Told(node=node, events=(seen(node, line, kind.partition(".")[2]),))
    if line.history:
        return told
    evidence: Evidence = {"text": line.text}
    evidence |= {name: line.fields[name] for name in fields if name in line.fields}
    evidence |= {name: value for name, value in (("pci", line.bdf), ("pid", line.pid)) if value is not None}
    sighting = Sighting(
        kind=kind,
        uuid=gpu.identity.uuid if gpu is not None else None,
        evidence=evidence,
        count=line.count,
        drill=is_drill(line),
    )
    return replace(told, sightings=(sighting,))


def _commenting(told: Told) -> Told:
    """Return what a line comes to that counts for itself only where the line it goes with is missing."""
    return replace(told, sightings=tuple(replace(sighting, count=0) for sighting in told.sightings))


def _probe(node: NodeState, line: KernelLogged) -> tuple[Command, ...]:
    gpu = at_bdf(node, line.bdf) if line.bdf else None
    if gpu is None or line.history or is_drill(line):
        return ()
    return (QuietGpu(gpu.identity.bdf),)


def _aer_event(node: NodeState, line: KernelLogged) -> Event:
    """Return the event of a PCIe error; one of a bridge is about the GPUs below it."""
    told = seen(node, line, "aer")
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
