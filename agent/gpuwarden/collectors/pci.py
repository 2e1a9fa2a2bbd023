"""What the PCI bus says about NVIDIA GPUs, from sysfs: presence, driver, link, AER totals. No driver is asked.

sysfs can hang (a dying device, a bus lock held by a remove that never ends), so scans are made by one thread of their
own with a deadline. A scan that is late says "cannot tell", which is not "no devices".
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from gpuwarden.model.observation import AnyObservation, PciDevice, PciPort, PciScanned, Stamp

_NVIDIA = 0x10DE
_GPU_CLASSES = (0x0300, 0x0302)  # VGA controller, 3D controller; the sound and USB functions of a card are neither
_BDF = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_ASLEEP = ("suspended", "suspending")
_GENERATION_BY_SPEED = {"2.5": 1, "5": 2, "5.0": 2, "8": 3, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6, "128.0": 7}
_WIDTHS = (1, 2, 4, 8, 12, 16, 32)  # anything else is a register that could not be read (63 when it answers all ones)
_DEADLINE_SECONDS = 5.0


class Scan(NamedTuple):
    """What one look at sysfs gave: `readable` False means that nothing can be said about devices."""

    readable: bool
    devices: tuple[PciDevice, ...]
    module_version: str


def scan(root: Path) -> Scan:
    """Return the NVIDIA GPUs under a sysfs root, sorted by BDF. Files that are missing or garbled are unknown values.

    Source: Documentation/ABI/testing/sysfs-bus-pci, sysfs-bus-pci-devices-aer_stats. A device that sleeps is left
    asleep: its configuration space, which holds the link registers, is not touched.
    """
    version = _text(root / "module" / "nvidia" / "version")
    try:
        folders = sorted((root / "bus" / "pci" / "devices").iterdir())
    except OSError:
        return Scan(False, (), version)
    gpus = [folder for folder in folders if _is_gpu(folder)]
    slots = _slots(root) if gpus else {}
    return Scan(True, tuple(_device(folder, slots) for folder in gpus), version)


def _is_gpu(folder: Path) -> bool:
    return _hex(folder / "vendor") == _NVIDIA and (_hex(folder / "class") or 0) >> 8 in _GPU_CLASSES


def _device(folder: Path, slots: dict[str, str]) -> PciDevice:
    bdf = folder.name.lower()
    asleep = _text(folder / "power" / "runtime_status") in _ASLEEP
    answers = asleep or _answers(folder)
    link = not asleep and answers
    return PciDevice(
        bdf=bdf,
        driver=_driver(folder),
        slot=slots.get(bdf.rpartition(".")[0], ""),
        device_id=_hex(folder / "device") or 0,
        subsystem_id=(_hex(folder / "subsystem_device") or 0) << 16 | (_hex(folder / "subsystem_vendor") or 0),
        runtime_suspended=asleep,
        config_readable=answers,
        link_generation=_generation(folder / "current_link_speed") if link else None,
        link_generation_max=_generation(folder / "max_link_speed") if link else None,
        link_width_lanes=_width(folder / "current_link_width") if link else None,
        link_width_max_lanes=_width(folder / "max_link_width") if link else None,
        aer_correctable=_aer(folder / "aer_dev_correctable"),
        aer_nonfatal=_aer(folder / "aer_dev_nonfatal"),
        aer_fatal=_aer(folder / "aer_dev_fatal"),
        upstream=_upstream(folder),
    )


def _upstream(folder: Path) -> tuple[PciPort, ...]:
    """Return the ports above a device, the root port first: the folders that its own one lies in."""
    try:
        above = [part for part in folder.resolve(strict=True).parts[:-1] if _BDF.fullmatch(part)]
    except (OSError, RuntimeError):
        return ()
    return tuple(
        PciPort(
            bdf=bdf,
            aer_correctable=_aer(folder.parent / bdf / "aer_dev_correctable"),
            aer_nonfatal=_aer(folder.parent / bdf / "aer_dev_nonfatal"),
            aer_fatal=_aer(folder.parent / bdf / "aer_dev_fatal"),
        )
        for bdf in above
    )


def _answers(folder: Path) -> bool:
    """Return whether the device answers configuration reads: one that is gone answers all ones. Unknown means yes."""
    try:
        with (folder / "config").open("rb", buffering=0) as config:
            return config.read(4) != b"\xff\xff\xff\xff"
    except OSError:
        return True


def _driver(folder: Path) -> str:
    try:
        return (folder / "driver").readlink().name
    except OSError:
        return ""


def _slots(root: Path) -> dict[str, str]:
    """Return the names of physical slots by `domain:bus:device`."""
    with contextlib.suppress(OSError):
        return {
            address.lower(): folder.name
            for folder in sorted((root / "bus" / "pci" / "slots").iterdir())
            if (address := _text(folder / "address"))
        }
    return {}


def _generation(path: Path) -> int | None:
    return _GENERATION_BY_SPEED.get(_text(path).partition(" ")[0])


def _width(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() and int(text) in _WIDTHS else None


def _aer(path: Path) -> int | None:
    """Return the total at the end of an AER statistics file; None where the kernel or device keeps none."""
    for line in _text(path).splitlines():
        name, _, count = line.partition(" ")
        if name.startswith("TOTAL_ERR_") and count.strip().isdecimal():
            return int(count)
    return None


def _hex(path: Path) -> int | None:
    try:
        return int(_text(path), 16)
    except ValueError:
        return None


def _text(path: Path) -> str:
    """Return the text of a small file, "" when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4096).decode("utf-8", "replace").strip()
    except OSError:
        return ""


class PciScanner:
    """Scans `root` every `period_seconds` and emits a PciScanned each time; a removed card is seen within a period.

    A scan that takes longer than `deadline_seconds` is told as not readable, once; the next scan begins when it has
    come back, never beside it.
    """

    def __init__(
        self,
        emit: Callable[[AnyObservation], None],
        clock: Callable[[], Stamp],
        *,
        root: Path = Path("/sys"),
        period_seconds: float = 10.0,
        deadline_seconds: float = _DEADLINE_SECONDS,
    ) -> None:
        self._emit = emit
        self._clock = clock
        self._root = root
        self._period_seconds = period_seconds
        self._deadline_seconds = deadline_seconds
        self._version = ""
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Scan until cancelled. The thread of a scan that hangs is left behind; it ends with the process."""
        wanted: queue.SimpleQueue[asyncio.Future[Scan] | None] = queue.SimpleQueue()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._serve, args=(loop, wanted), name="pci-scan", daemon=True).start()
        try:
            while True:
                begun = loop.time()
                answer: asyncio.Future[Scan] = loop.create_future()
                wanted.put(answer)
                self._tell(await self._in_time(answer))
                await asyncio.sleep(max(0.0, begun + self._period_seconds - loop.time()))
        finally:
            wanted.put(None)

    async def _in_time(self, answer: asyncio.Future[Scan]) -> Scan:
        """Return the scan; one that is late is told as unreadable meanwhile."""
        done, _ = await asyncio.wait((answer,), timeout=self._deadline_seconds)
        if not done:
            self._log.warning("pci.scan_blocked", deadline_seconds=self._deadline_seconds)
            self._tell(Scan(False, (), self._version))
            await asyncio.wait((answer,))
            self._log.info("pci.scan_returned")
        self._version = answer.result().module_version
        return answer.result()

    def _tell(self, found: Scan) -> None:
        self._emit(
            PciScanned(
                at=self._clock(),
                readable=found.readable,
                devices=found.devices,
                module_version=found.module_version,
            )
        )

    def _serve(self, loop: asyncio.AbstractEventLoop, wanted: queue.SimpleQueue[asyncio.Future[Scan] | None]) -> None:
        while (answer := wanted.get()) is not None:
            try:
                found: Scan | Exception = scan(self._root)
            except Exception as error:  # the top of this thread: the loop's side raises it
                found = error
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_resolve, answer, found)


def _resolve(answer: asyncio.Future[Scan], found: Scan | Exception) -> None:
    if answer.cancelled():
        return
    if isinstance(found, Exception):
        answer.set_exception(found)
    else:
        answer.set_result(found)
