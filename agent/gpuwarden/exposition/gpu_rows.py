"""Metric rows about each GPU that outlive its readings: who it is, how it fares, what was counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gpuwarden.exposition.rows import GpuRow, Labelled
from gpuwarden.model.finding import Health
from gpuwarden.model.gpu import READINGS, Missing, Scalar, Value
from gpuwarden.model.snapshot import GpuState, NodeState, Presence

COUNTED_XIDS = (48, 62, 64, 74, 79, 95, 119, 120, 140)
"""Xids whose counter exists before the first one occurs, because `increase()` does not see a series being born."""


def _info(_node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    known = gpu.identity
    minor = "" if known.minor is None else str(known.minor)
    slot = known.slot or (gpu.pci.slot if gpu.pci else "")
    yield (known.name, known.bdf, known.serial, known.vbios, minor, known.board, slot), 1


def _gpu_blocked(node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    yield (), 0.0 if gpu.blocked_since is None else max(0.0, node.now.boottime - gpu.blocked_since)


def _gpu_health(_node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    return [((health.value,), int(gpu.health is health)) for health in Health]


def _xids(_node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    totals = dict.fromkeys(((xid, "driver") for xid in COUNTED_XIDS), 0)
    totals.update({(count.xid, count.source): count.total for count in gpu.xids})
    return [((code_label(xid), source), total) for (xid, source), total in sorted(totals.items())]


def code_label(code: int) -> str:
    """Return the label of an Xid or SXid; 0 stands for all that came after the bound on different codes."""
    return str(code) if code else "other"


def _xid_times(_node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    return [((code_label(count.xid),), count.last) for count in gpu.xids if count.source == "driver" and count.last > 0]


def _aer(_node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    if gpu.pci is not None:
        yield ("correctable",), gpu.pci.aer_correctable
        yield ("nonfatal",), gpu.pci.aer_nonfatal
        yield ("fatal",), gpu.pci.aer_fatal


SHOWN = frozenset({Presence.ANSWERING, Presence.FAULTY})
"""Presences in which readings are shown: the GPU answers, perhaps badly."""

HIDDEN_AS: dict[Presence, Missing] = {
    Presence.LOST: Missing.GPU_LOST,
    Presence.MISSING: Missing.GPU_LOST,
    Presence.NEEDS_RESET: Missing.UNKNOWN,
    Presence.ACCESS_LOST: Missing.NO_PERMISSION,
    Presence.BLOCKED: Missing.TIMED_OUT,
    Presence.ASLEEP: Missing.PAUSED,
    Presence.PAUSED: Missing.PAUSED,
}
"""Why a reading is not shown that was still good when its GPU stopped answering. Not listed: nothing was asked."""


def _status(value: Value) -> Missing | None:
    """Return why a reading, or any element of a vector, is absent in a way worth telling."""
    items: tuple[Scalar, ...] = value if isinstance(value, tuple) else (value,)
    for item in items:
        if isinstance(item, Missing) and item is not Missing.NOT_SUPPORTED:
            return item
    return None


def reading_status(gpu: GpuState, field: str) -> Missing | None:
    """Return why this reading cannot be had now, where that is worth telling; None for one that is unsupported.

    A GPU that stopped answering takes its readings with it, also those that were good a moment ago.
    """
    value: Value = getattr(gpu.readings, field)
    status = _status(value)
    hidden_as = HIDDEN_AS.get(gpu.presence)
    if hidden_as is not None and value is not Missing.NOT_SUPPORTED and status in (None, Missing.UNKNOWN):
        return hidden_as
    return status


def _while_shown(value: Callable[[GpuState], float | None]) -> Callable[[NodeState, GpuState], Iterable[Labelled]]:
    """Return the values of a row that goes when the GPU's readings go."""
    return lambda _node, gpu: (((), value(gpu) if gpu.presence in SHOWN else None),)


def _reading_statuses(_node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    if gpu.presence not in SHOWN and gpu.presence not in HIDDEN_AS:
        return
    for field in READINGS:
        status = reading_status(gpu, field)
        if status is not None:
            yield (field, status.value), 1


GPU_ROWS: tuple[GpuRow, ...] = (
    GpuRow(
        "gpu_info",
        "Who the GPU is; join on uuid.",
        ("name", "pci_bus_id", "serial", "vbios", "minor", "board", "slot"),
        _info,
    ),
    GpuRow(
        "gpu_last_sample_timestamp_seconds",
        "When the GPU last answered, as Unix time.",
        (),
        lambda _node, gpu: (((), gpu.last_sample),),
    ),
    GpuRow(
        "gpu_blocked_seconds",
        "For how long one call to the GPU has not returned; 0 when none is late.",
        (),
        _gpu_blocked,
    ),
    GpuRow(
        "gpu_reading_status",
        "Readings that are neither there nor unsupported, and why.",
        ("reading", "status"),
        _reading_statuses,
    ),
    GpuRow(
        "gpu_readings_rejected_total",
        "Readings dropped because they were outside physics.",
        ("reading",),
        lambda _node, gpu: [((reading,), total) for reading, total in sorted(gpu.rejected.items())],
    ),
    GpuRow(
        "gpu_pcie_aer_errors_total",
        "PCIe errors the kernel counted for the GPU, by severity.",
        ("severity",),
        _aer,
    ),
    GpuRow(
        "gpu_xid_errors_total",
        "Xid errors in this boot; source is user where not the kernel but somebody else wrote the line.",
        ("xid", "source"),
        _xids,
    ),
    GpuRow(
        "gpu_xid_last_timestamp_seconds",
        "When the driver last reported this Xid, as Unix time.",
        ("xid",),
        _xid_times,
    ),
    GpuRow(
        "gpu_clock_reference_hertz",
        "SM clock the GPU is held against under load: of its busy peers, its own past, or what the board promises.",
        (),
        _while_shown(lambda gpu: gpu.speed.reference_hertz),
    ),
    GpuRow(
        "gpu_speed_ratio",
        "SM clock under load against the reference clock; 1 is as fast as its peers. Absent while idle.",
        (),
        _while_shown(lambda gpu: gpu.speed.ratio),
    ),
    GpuRow(
        "workload_throughput",
        "What the GPU gets done per second, in the operator's own measure.",
        ("metric",),
        lambda _node, gpu: [((metric,), work.value) for metric, work in gpu.work.items() if gpu.presence in SHOWN],
    ),
    GpuRow("gpu_health", "The verdict on the GPU.", ("state",), _gpu_health),
)
