"""PCIe errors by device and port: counters of the kernel over time, its lines in the log, and which GPUs they concern.

An error of a bridge or root port concerns every GPU below it. A counter that stands above zero at first sight is
history: enumeration itself makes errors on many boards.
"""

from __future__ import annotations

from msgspec.structs import replace

from gpuwarden.model.observation import KernelLogged, PciDevice, PciPort, PciScanned
from gpuwarden.model.snapshot import GpuState, NodeState
from gpuwarden.policy.gpus import slot_address
from gpuwarden.policy.samples import grow

UNCORRECTED_SECONDS = 3600.0
_WINDOW_SECONDS = {"correctable": 600.0, "nonfatal": UNCORRECTED_SECONDS, "fatal": UNCORRECTED_SECONDS}
_MOST_ADDRESSES = 64  # whose lines are remembered; a host has fewer ports above its GPUs


def scanned(node: NodeState, seen: PciScanned) -> NodeState:
    """Return the node with the counters of all GPUs and of the ports above them in their windows."""
    if not seen.readable:
        return node
    sources: dict[str, PciDevice | PciPort] = {}
    for device in seen.devices:
        sources |= {port.bdf: port for port in device.upstream} | {device.bdf: device}
    windows = {key: window for key, window in node.aer.items() if key[0] in sources}
    for bdf, source in sources.items():
        for severity, period in _WINDOW_SECONDS.items():
            count: int | None = getattr(source, f"aer_{severity}")
            if count is not None:
                windows[bdf, severity] = grow(windows.get((bdf, severity)), float(count), seen.at.boottime, period)
    return replace(node, aer=windows)


def logged(node: NodeState, line: KernelLogged) -> NodeState:
    """Return the node with an uncorrected error of the log remembered; corrected ones are rate-limited there, and
    a line that is history, a drill or not the kernel's own says nothing about now."""
    severity = line.fields.get("severity", "")
    if line.bdf is None or severity not in ("nonfatal", "fatal") or line.fields.get("part") != "head":
        return node
    if line.history or line.drill or not line.from_kernel:
        return node
    now = node.now.boottime
    lines = {address: row for address, row in node.aer_lines.items() if now - row[0] <= UNCORRECTED_SECONDS}
    address = slot_address(line.bdf)
    if address not in lines and len(lines) >= _MOST_ADDRESSES:
        return node
    _, count = lines.get(address, (now, 0))
    return replace(node, aer_lines=lines | {address: (now, count + line.count)})


def concerned(node: NodeState, address: str) -> tuple[GpuState, ...]:
    """Return the GPUs at or below an address (with or without function), in index order."""
    wanted = slot_address(address)
    return tuple(
        gpu
        for gpu in node.gpus.values()
        if wanted and wanted in {slot_address(bdf) for bdf in (gpu.identity.bdf, *_above(gpu))}
    )


def _above(gpu: GpuState) -> tuple[str, ...]:
    return tuple(port.bdf for port in gpu.pci.upstream) if gpu.pci is not None else ()
