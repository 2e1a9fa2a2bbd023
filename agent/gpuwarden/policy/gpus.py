"""Finding and replacing single GPUs of the inventory: the small steps that the other policies share."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from gpuwarden.model.gpu import GpuReading, Missing
from gpuwarden.model.snapshot import GpuState, NodeState


def slot_address(bdf: str) -> str:
    """Return a BDF without its function, which is how the kernel log names a GPU: `0000:3b:00`."""
    return bdf.partition(".")[0]


def at_bdf(node: NodeState, bdf: str) -> GpuState | None:
    """Return the GPU at a BDF (with or without function); after a swap the one that the present session knows."""
    wanted = slot_address(bdf)
    found = [gpu for gpu in node.gpus.values() if wanted and slot_address(gpu.identity.bdf) == wanted]
    known = set(node.by_index.values())
    return next((gpu for gpu in found if gpu.identity.uuid in known), found[-1] if found else None)


def put(node: NodeState, gpu: GpuState) -> NodeState:
    """Return the node with one GPU replaced or added, the inventory in index order."""
    gpus = node.gpus | {gpu.identity.uuid: gpu}
    if gpu.identity.uuid not in node.gpus:
        gpus = dict(sorted(gpus.items(), key=lambda item: item[1].index))
    return replace(node, gpus=gpus)


def update(node: NodeState, uuid: str, **changes: Any) -> NodeState:
    """Return the node with fields of one GPU changed."""
    return put(node, replace(node.gpus[uuid], **changes))


def voided(readings: GpuReading, why: Missing, fields: tuple[str, ...] | None = None) -> GpuReading:
    """Return the readings gone for a reason; what the product does not support stays unsupported."""
    names = GpuReading.__struct_fields__ if fields is None else fields
    gone = {name: why for name in names if readings.value(name) is not Missing.NOT_SUPPORTED}
    return replace(readings, **gone) if gone else readings
