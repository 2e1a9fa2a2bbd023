"""The simulated node's sysfs: a folder tree in the form of /sys, kept as the world is.

Files are replaced as a whole, so that a reader never sees half of one. Source: Documentation/ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from gpuwarden.model.host import IbPort
from gpuwarden.sim import host
from gpuwarden.sim.card import Card
from gpuwarden.sim.sheet_links import link_generation, link_width
from gpuwarden.sim.world import World

_SPEED = {1: "2.5 GT/s PCIe", 2: "5.0 GT/s PCIe", 3: "8.0 GT/s PCIe", 4: "16.0 GT/s PCIe", 5: "32.0 GT/s PCIe"}
_AER = {"correctable": "TOTAL_ERR_COR", "nonfatal": "TOTAL_ERR_NONFATAL", "fatal": "TOTAL_ERR_FATAL"}
_CONFIG_BYTES = 64
_IB_STATES = {"DOWN": 1, "INIT": 2, "ARMED": 3, "ACTIVE": 4}  # source: include/rdma/ib_verbs.h, enum ib_port_state
_IB_PHYS_STATES = {"Sleep": 1, "Polling": 2, "Disabled": 3, "LinkUp": 5}  # enum ib_port_phys_state


class SysfsTree:
    """Writes `root` anew, then only what has changed."""

    def __init__(self, root: Path, world: World) -> None:
        self._root = root
        self._world = world
        self._written: dict[Path, bytes] = {}
        self._scratch = root.with_name(root.name + ".new")
        shutil.rmtree(root, ignore_errors=True)
        (root / "bus" / "pci" / "devices").mkdir(parents=True)
        (root / "bus" / "pci" / "drivers" / "nvidia").mkdir(parents=True)
        self.update()

    def update(self) -> None:
        """Bring the tree up to date. Raises: OSError where it cannot be written."""
        module = self._root / "module" / "nvidia"
        if self._world.module_version:
            self._write(module / "version", self._world.module_version)
        elif module.exists():
            self._remove(module)
        for card in self._world.cards:
            folder = self._place(*card.identity.ports, card.identity.bdf)
            if card.knobs.gone:
                self._unlist(card.identity.bdf)
                self._remove(folder)
            else:
                self._device(folder, card)
                self._list(folder)
            for depth, bdf in enumerate(card.identity.ports, 1):
                above = self._place(*card.identity.ports[:depth])
                self._errors(above, self._world.port_aer(bdf))
                self._list(above)
            slot = self._root / "bus" / "pci" / "slots" / card.identity.pci_slot
            self._write(slot / "address", card.identity.bdf.partition(".")[0])

        for port in host.ports(self._world):
            self._port(self._root / "class" / "infiniband" / port.device / "ports" / str(port.port), port)

    def _place(self, *path: str) -> Path:
        """Return the folder of a device below the ports that lead to it."""
        return self._root.joinpath("devices", "pci0000:00", *path)

    def _list(self, folder: Path) -> None:
        """Show a device on the bus, as a link to where it is."""
        link = self._root / "bus" / "pci" / "devices" / folder.name
        if not link.is_symlink():
            link.symlink_to(Path("..", "..", "..", folder.relative_to(self._root)))

    def _unlist(self, bdf: str) -> None:
        (self._root / "bus" / "pci" / "devices" / bdf).unlink(missing_ok=True)

    def _errors(self, folder: Path, counts: Mapping[str, float]) -> None:
        for name, total in _AER.items():
            self._write(folder / f"aer_dev_{name}", f"Undefined 0\n{total} {int(counts[name])}")

    def _port(self, folder: Path, port: IbPort) -> None:
        self._write(folder / "state", f"{_IB_STATES[port.state]}: {port.state}")
        self._write(folder / "phys_state", f"{_IB_PHYS_STATES.get(port.phys_state, 0)}: {port.phys_state}")
        self._write(folder / "rate", f"{(port.rate_bits_per_second or 0) / 1e9:g} Gb/sec (4X)")
        self._write(folder / "link_layer", port.link_layer)

    def _device(self, folder: Path, card: Card) -> None:
        product, dead = card.product, card.knobs.dead
        self._write(folder / "vendor", "0x10de")
        self._write(folder / "device", f"0x{product.pci_device_id:04x}")
        self._write(folder / "class", f"0x{product.pci_class:06x}")
        self._write(folder / "subsystem_vendor", f"0x{product.pci_subsystem_id & 0xFFFF:04x}")
        self._write(folder / "subsystem_device", f"0x{product.pci_subsystem_id >> 16:04x}")
        self._write(folder / "power" / "runtime_status", "suspended" if card.knobs.asleep else "active")
        self._write(folder / "current_link_speed", "Unknown" if dead else _SPEED[link_generation(card)])
        self._write(folder / "max_link_speed", _SPEED[product.pcie_generation_max])
        self._write(folder / "current_link_width", "63" if dead else str(link_width(card)))
        self._write(folder / "max_link_width", str(product.pcie_width_lanes))
        ids = (0x10DE | product.pci_device_id << 16).to_bytes(4, "little")
        self._write_bytes(folder / "config", b"\xff" * _CONFIG_BYTES if dead else ids.ljust(_CONFIG_BYTES, b"\0"))
        self._errors(folder, card.aer)
        self._bind(folder, self._world.driver_of(card))

    def _bind(self, folder: Path, driver: str) -> None:
        """Have a device show its driver, and the driver its device."""
        link = folder / "driver"
        bound = link.readlink().name if link.is_symlink() else ""
        if bound == driver:
            return
        drivers = self._root / "bus" / "pci" / "drivers"
        if bound:
            link.unlink()
            (drivers / bound / folder.name).unlink(missing_ok=True)
        if driver:
            (drivers / driver).mkdir(exist_ok=True)
            link.symlink_to(drivers.absolute() / driver)
            (drivers / driver / folder.name).symlink_to(folder.absolute())

    def _remove(self, folder: Path) -> None:
        if folder.exists():
            if (folder / "driver").is_symlink():
                self._bind(folder, "")
            shutil.rmtree(folder)
            self._written = {path: raw for path, raw in self._written.items() if folder not in path.parents}

    def _write(self, path: Path, text: str) -> None:
        self._write_bytes(path, text.encode() + b"\n")

    def _write_bytes(self, path: Path, raw: bytes) -> None:
        if self._written.get(path) == raw:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._scratch.write_bytes(raw)
        os.replace(self._scratch, path)  # noqa: PTH105 - as one step, which is the point
        self._written[path] = raw


class TextFile:
    """One file that is replaced as a whole when its text changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text: str | None = None

    def update(self, text: str) -> None:
        """Write the text unless it is there already. Raises: OSError."""
        if text != self._text:
            scratch = self._path.with_name(self._path.name + ".new")
            scratch.write_text(text, encoding="utf-8")
            os.replace(scratch, self._path)  # noqa: PTH105 - as one step
            self._text = text
