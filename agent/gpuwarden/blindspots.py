"""What this process cannot see on this host, and how to allow it: said once at the start, and by `check`."""

from __future__ import annotations

import os
from pathlib import Path

from gpuwarden.collectors.procfs import why_blind

KMSG = Path("/dev/kmsg")


def blind_spots(
    kmsg: Path = KMSG, *, sysfs: Path = Path("/sys"), devices: Path = Path("/dev"), proc: Path = Path("/proc")
) -> tuple[str, ...]:
    """Return one line per blind spot, each with its remedy; empty where everything can be seen."""
    checks = (_kernel_log(kmsg), _devices(devices), _pci(sysfs), _processes(proc))
    return tuple(line for line in checks if line)


def _kernel_log(path: Path) -> str:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except FileNotFoundError:
        return f"No kernel log: {path} does not exist here: Xids come from NVML events only. Mount it or pass --kmsg."
    except OSError as error:
        return (
            f"No kernel log: {path}: {error.strerror}, so Xids are seen through NVML events only. Run as root, or "
            "give the service CAP_SYSLOG and a group that may read it (the systemd unit does)."
        )
    return ""


def _devices(root: Path) -> str:
    nodes = sorted(root.glob("nvidia[0-9]*"))
    closed = [node.name for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
    if not closed:
        return ""
    return f"No access to {', '.join(closed)} in {root}: add this user to the group that owns them (video or render)."


def _pci(root: Path) -> str:
    bus = root / "bus/pci/devices"
    if os.access(bus, os.R_OK | os.X_OK):
        return ""
    return f"No PCI bus: {bus} cannot be read, so a missing GPU is told from NVML alone. Mount /sys read-only."


def _processes(proc: Path) -> str:
    why = why_blind(proc)
    if not why:
        return ""
    return (
        f"No owners of GPU work: {why}, so only the kubelet can say who holds a GPU, and memory without an owner is "
        "not judged. Run in the host's pid namespace (hostPID: true, --pid=host), with /proc mounted without hidepid."
    )
