"""What the actuator sees of the PCI bus and the driver by itself: which addresses are GPUs, and which GPU is where."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from gpuwarden.actuators.door import Device
from gpuwarden.actuators.site import Place

_NVIDIA = "0x10de"
_GPU_CLASSES = ("0x0300", "0x0302")  # VGA controller, 3D controller
_FIELD = re.compile(r"^([A-Za-z ]+?)\s*:\s*(.*?)\s*$", re.MULTILINE)


def text_of(path: Path) -> str:
    """Return the text of a small file of the kernel's, "" when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(8192).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def folder_of(place: Place, bdf: str) -> Path:
    """Return a device's folder in sysfs."""
    return Path(place.sysfs) / "bus" / "pci" / "devices" / bdf


def device_at(place: Place, bdf: str) -> Device | None:
    """Return what is at a PCI address, None where nothing is."""
    folder = folder_of(place, bdf)
    if not bdf or not folder.is_dir():
        return None
    nvidia = text_of(folder / "vendor") == _NVIDIA and text_of(folder / "class")[:6] in _GPU_CLASSES
    return Device(bdf=bdf, nvidia=nvidia, uuid=driver_says(place, bdf).get("GPU UUID", "") if nvidia else "")


def driver_says(place: Place, bdf: str) -> dict[str, str]:
    """Return what the driver says of a GPU without being called: Model, GPU UUID, Device Minor and more.

    Source: /proc/driver/nvidia/gpus/<bdf>/information. Empty where the driver does not have it.
    """
    return dict(_FIELD.findall(text_of(Path(place.driver) / "nvidia" / "gpus" / bdf / "information")))


def minors(place: Place) -> dict[str, int]:
    """Return the number of each GPU's device node, by address, for the GPUs that the driver has."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for folder in sorted((Path(place.driver) / "nvidia" / "gpus").iterdir()):
            minor = driver_says(place, folder.name).get("Device Minor", "")
            if minor.isdecimal():
                found[folder.name] = int(minor)
    return found
