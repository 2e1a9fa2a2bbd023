"""Which GPUs the kernel has suspended, from sysfs: a handle would wake one, and keep it awake while we hold it.

Reading `power/runtime_status` wakes nobody. Source: Documentation/ABI/testing/sysfs-devices-power.
"""

from __future__ import annotations

from pathlib import Path

SYSFS = Path("/sys")
_NVIDIA = "0x10de"
_GPU_CLASSES = ("0x0300", "0x0302")  # VGA controller, 3D controller
_ASLEEP = ("suspended", "suspending")


def driven(sysfs: Path) -> tuple[str, ...]:
    """Return the addresses of the GPUs that the NVIDIA driver holds, in the order in which NVML counts them."""
    folder = sysfs / "bus" / "pci" / "drivers" / "nvidia"
    try:
        devices = sorted(entry for entry in folder.iterdir() if entry.name.count(":") == 2)
    except OSError:
        return ()
    return tuple(device.name.lower() for device in devices if _is_gpu(device))


def is_asleep(sysfs: Path, bdf: str) -> bool:
    """Return whether a GPU is suspended now; one that does not say is not."""
    return _text(sysfs / "bus" / "pci" / "devices" / bdf / "power" / "runtime_status") in _ASLEEP


def addresses(sysfs: Path, count: int) -> tuple[str, ...]:
    """Return the address of each NVML index where one of the GPUs sleeps, () where all are awake.

    Addresses that are not as many as NVML counts say nothing about an index: then nobody is spared.
    """
    found = driven(sysfs)
    return found if len(found) == count and any(is_asleep(sysfs, bdf) for bdf in found) else ()


def _is_gpu(device: Path) -> bool:
    return _text(device / "vendor") == _NVIDIA and _text(device / "class").startswith(_GPU_CLASSES)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(64).decode("ascii", "replace").strip()
    except OSError:
        return ""
