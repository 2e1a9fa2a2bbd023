"""What of a node is worth keeping when its process ends, as rows: for the journal, and for the start of a capture."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from gpuwarden.model.finding import Incident
from gpuwarden.model.observation import BaselineRow, CounterRow, InventoryRow, LatchRow, Restored
from gpuwarden.model.snapshot import GpuState, NodeState
from gpuwarden.model.stamp import Stamp


def kept_of(node: NodeState, at: Stamp) -> Restored:
    """Return what a journal would give back of a node after a reboot: all but the counters of its boot."""
    return Restored(
        at=at,
        inventory=tuple(inventory_row(gpu, node.now.boot_id) for gpu in node.gpus.values()),
        latches=tuple(latch_row(incident) for incident in node.incidents.values()),
        counters=(),
        remedy=node.remedy,
    )


def inventory_row(gpu: GpuState, boot_id: str) -> InventoryRow:
    """Return a GPU of the inventory; `boot_id` is the boot in which it was last seen."""
    return InventoryRow(
        identity=gpu.identity, index=gpu.index, first_seen=gpu.first_seen, last_seen=gpu.last_seen, boot_id=boot_id
    )


def latch_row(incident: Incident) -> LatchRow:
    """Return an open incident."""
    return LatchRow(
        kind=incident.kind,
        severity=incident.severity.value,
        uuid=incident.uuid,
        opened=incident.opened,
        last_seen=incident.last_seen,
        count=incident.count,
        latched=incident.latched,
        drill=incident.drill,
        event_class=incident.event_class.value if incident.event_class is not None else "",
        evidence={key: msgspec.Raw(msgspec.json.encode(value)) for key, value in incident.evidence.items()},
    )


CLOCK_FIGURE = "sm_clock_hertz"
WORK_FIGURE = "workload:"  # and the metric's name


def baseline_rows(node: NodeState, known: NodeState | None = None) -> Iterator[BaselineRow]:
    """Yield what each GPU usually reaches, where that is not what it was in `known`; all of it without it."""
    for uuid, gpu in node.gpus.items():
        before = known.gpus.get(uuid) if known is not None else None
        if gpu.speed.history.weights and (before is None or before.speed.history is not gpu.speed.history):
            yield BaselineRow(uuid=uuid, figure=CLOCK_FIGURE, history=gpu.speed.history)
        for metric, work in gpu.work.items():
            told = before.work.get(metric) if before is not None else None
            if work.history.weights and (told is None or told.history is not work.history):
                yield BaselineRow(uuid=uuid, figure=WORK_FIGURE + metric, history=work.history)


def counter_rows(node: NodeState, known: NodeState | None = None) -> Iterator[CounterRow]:
    """Yield the counters of `node` that are not what they were in `known`; all of them without it."""
    for uuid, gpu in node.gpus.items():
        before = known.gpus.get(uuid) if known is not None else None
        if before is not None and before.xids is gpu.xids:
            continue
        told = set(before.xids) if before is not None else set()
        for count in gpu.xids:
            if count not in told:
                yield CounterRow(
                    family="xid", uuid=uuid, name=str(count.xid), label=count.source, total=count.total, last=count.last
                )
    yield from _unclaimed(node, known)
    if known is None or node.sxids is not known.sxids:
        for (sxid, fatal), total in node.sxids.items():
            if known is None or known.sxids.get((sxid, fatal)) != total:
                yield CounterRow(family="sxid", uuid="", name=str(sxid), label=fatal, total=total, last=node.now.wall)
    if known is None or node.incident_totals is not known.incident_totals:
        for (kind, severity), total in node.incident_totals.items():
            if known is None or known.incident_totals.get((kind, severity)) != total:
                yield CounterRow(family="incident", uuid="", name=kind, label=severity, total=total, last=node.now.wall)


def _unclaimed(node: NodeState, known: NodeState | None) -> Iterator[CounterRow]:
    """Yield the Xids of addresses without a GPU, under `PCI-<address>`; 0 for those that a GPU has claimed since."""
    now, before = node.unclaimed_xids, known.unclaimed_xids if known is not None else {}
    if now is before:
        return
    for address in {**before, **now}:
        told, kept = before.get(address, ()), now.get(address, ())
        uuid = f"PCI-{address}"
        for count in kept:
            if count not in told:
                yield CounterRow(
                    family="xid", uuid=uuid, name=str(count.xid), label=count.source, total=count.total, last=count.last
                )
        for count in told if not kept else ():
            yield CounterRow(family="xid", uuid=uuid, name=str(count.xid), label=count.source, total=0, last=count.last)
