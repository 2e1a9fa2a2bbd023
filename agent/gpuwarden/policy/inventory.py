"""The list of GPUs this host has had: taking one in, under its lasting name and index, and letting one go."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from gpuwarden.model.case import Remedy
from gpuwarden.model.finding import Event, Incident
from gpuwarden.model.gpu import GpuIdentity
from gpuwarden.model.observation import CounterRow, ForgetGpu, InventoryRow, LatchRow, Restored
from gpuwarden.model.severity import EventClass, Severity
from gpuwarden.model.snapshot import GpuState, NodeState, XidCount
from gpuwarden.model.step import Step
from gpuwarden.policy.gpus import put, slot_address

_CLASSES = {each.value: each for each in EventClass}


def claim(node: NodeState, identity: GpuIdentity, index: int | None) -> NodeState:
    """Return the node with this GPU in the inventory, and with what was kept for its address now its own.

    A known GPU keeps its index. A new one gets the session's, or the first free one where that is taken. A device
    known only as `PCI-<bdf>` becomes the GPU that answers there.
    """
    slot = node.settings.slots.get(identity.bdf) or identity.slot
    device = next((device for device in node.pci if device.bdf == identity.bdf), None)
    known = node.gpus.get(identity.uuid)
    nameless = node.gpus.get(f"PCI-{identity.bdf}")
    if known is None and nameless is not None:
        node, known = _renamed(node, nameless, identity.uuid), nameless
    if known is None:
        known = GpuState(
            identity=identity,
            index=_free_index(node, index),
            first_seen=node.now.wall,
            last_seen=node.now.wall,
            presence_since=node.now.boottime,
        )
    slot = slot or (device.slot if device is not None else "") or known.identity.slot
    node = put(node, replace(known, identity=replace(identity, slot=slot), pci=device))
    return _claim_sightings(node, identity)


def _free_index(node: NodeState, wanted: int | None) -> int:
    taken = {gpu.index for gpu in node.gpus.values()}
    if wanted is not None and wanted not in taken:
        return wanted
    return next(index for index in range(len(taken) + 1) if index not in taken)


def _renamed(node: NodeState, old: GpuState, uuid: str) -> NodeState:
    """Return the node without a nameless device; what was open about it is about the GPU that answered there."""
    before = old.identity.uuid

    def moved(key: tuple[str, str]) -> tuple[str, str]:
        return (key[0], uuid if key[1] == before else key[1])

    return replace(
        node,
        gpus={key: gpu for key, gpu in node.gpus.items() if key != before},
        by_index={index: uuid if name == before else name for index, name in node.by_index.items()},
        pending={moved(key): since for key, since in node.pending.items()},
        clearing={moved(key): since for key, since in node.clearing.items()},
        incidents={
            moved(key): replace(incident, uuid=uuid) if key[1] == before else incident
            for key, incident in node.incidents.items()
        },
        remedy=_renamed_remedy(node.remedy, before, uuid),
    )


def _renamed_remedy(remedy: Remedy, before: str, uuid: str) -> Remedy:
    """Return remediation with a device's cases, attempts and hold under the name of the GPU that answered there."""
    return replace(
        remedy,
        cases={key: replace(case, uuid=uuid) if case.uuid == before else case for key, case in remedy.cases.items()},
        attempts=tuple(replace(each, uuid=uuid) if each.uuid == before else each for each in remedy.attempts),
        left=tuple(replace(each, uuid=uuid) if each.uuid == before else each for each in remedy.left),
        holds={
            (uuid if key == before else key): replace(hold, uuid=uuid) if key == before else hold
            for key, hold in remedy.holds.items()
        },
    )


def _claim_sightings(node: NodeState, identity: GpuIdentity) -> NodeState:
    """Return the node with the Xids that came from this address before anybody was known there."""
    address = slot_address(identity.bdf)
    kept = node.unclaimed_xids.get(address)
    if kept is None:
        return node
    gpu = node.gpus[identity.uuid]
    counts = {(row.xid, row.source): row for row in gpu.xids}
    for row in kept:
        had = counts.get((row.xid, row.source))
        counts[row.xid, row.source] = row if had is None else replace(row, total=row.total + had.total)
    incidents = {}
    for key, incident in node.incidents.items():
        ours = incident.uuid is None and incident.evidence.get("pci") == address
        moved = (incident.kind, identity.uuid) if ours else key
        incidents[moved] = replace(incident, uuid=identity.uuid) if ours else incident
    unclaimed = {key: rows for key, rows in node.unclaimed_xids.items() if key != address}
    node = put(node, replace(gpu, xids=tuple(counts.values())))
    return replace(node, unclaimed_xids=unclaimed, incidents=incidents)


def forget(node: NodeState, request: ForgetGpu) -> Step:
    """Return the node without one GPU: its series, counters and incidents go with it."""
    gpu = node.gpus.get(request.uuid)
    if gpu is None:
        return Step(state=node)
    event = Event(
        kind="request",
        name="forget",
        severity=Severity.INFO.value,
        gpu=gpu.index,
        uuid=request.uuid,
        state="done",
        time=node.now.wall,
        boot_id=node.now.boot_id,
    )

    def others(table: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
        return {key: value for key, value in table.items() if key[1] != request.uuid}

    node = replace(
        node,
        gpus={uuid: other for uuid, other in node.gpus.items() if uuid != request.uuid},
        by_index={index: uuid for index, uuid in node.by_index.items() if uuid != request.uuid},
        pending=others(node.pending),
        clearing=others(node.clearing),
        incidents={key: incident for key, incident in node.incidents.items() if key[1] != request.uuid},
        remedy=_forgotten(node.remedy, request.uuid),
    )
    return Step(state=node, events=(event,))


def _forgotten(remedy: Remedy, uuid: str) -> Remedy:
    """Return remediation without a GPU: a case about it is told so, and gives back what it took."""
    return replace(
        remedy,
        cases={key: replace(case, forgotten=True) if case.uuid == uuid else case for key, case in remedy.cases.items()},
        holds={key: hold for key, hold in remedy.holds.items() if key != uuid},
    )


def restored(node: NodeState, remembered: Restored) -> NodeState:
    """Return the node with what the journal remembered: inventory, this boot's counters, open incidents."""
    for row in remembered.inventory:
        node = put(node, _known(node, row))
    for counter in remembered.counters:
        node = _counted(node, counter)
    node = replace(node, incident_counter=sum(node.incident_totals.values()))
    incidents = {}
    for number, latch in enumerate(remembered.latches, start=1):
        if latch.kind in node.settings.kinds and (latch.uuid is None or latch.uuid in node.gpus):
            incidents[latch.kind, latch.uuid or ""] = _open_again(node, latch, number)
    return replace(node, incidents=incidents)


def _known(node: NodeState, row: InventoryRow) -> GpuState:
    return GpuState(
        identity=row.identity,
        index=row.index,
        first_seen=row.first_seen,
        last_seen=row.last_seen,
        presence_since=node.now.boottime,
    )


def _counted(node: NodeState, row: CounterRow) -> NodeState:
    match row.family:
        case "xid" if row.uuid in node.gpus:
            gpu = node.gpus[row.uuid]
            count = XidCount(xid=int(row.name), source=row.label, total=row.total, last=row.last)
            return put(node, replace(gpu, xids=(*gpu.xids, count)))
        case "xid" if row.uuid.startswith("PCI-") and row.total:
            address = row.uuid.removeprefix("PCI-")
            count = XidCount(xid=int(row.name), source=row.label, total=row.total, last=row.last)
            kept = (*node.unclaimed_xids.get(address, ()), count)
            return replace(node, unclaimed_xids=node.unclaimed_xids | {address: kept})
        case "sxid":
            return replace(node, sxids=node.sxids | {(int(row.name), row.label): row.total})
        case "incident":
            return replace(node, incident_totals=node.incident_totals | {(row.name, row.label): row.total})
    return node


def _open_again(node: NodeState, row: LatchRow, number: int) -> Incident:
    return Incident(
        id=f"{row.opened.boot_id[:8]}-r{number}",
        kind=row.kind,
        severity=Severity(row.severity),
        uuid=row.uuid,
        opened=row.opened,
        last_seen=row.last_seen,
        count=row.count,
        latched=row.latched,
        event_class=(_CLASSES.get(row.event_class) or node.settings.kinds[row.kind].event_class)
        if row.latched
        else None,
        drill=row.drill,
        evidence={key: msgspec.json.decode(value) for key, value in row.evidence.items()},
    )
