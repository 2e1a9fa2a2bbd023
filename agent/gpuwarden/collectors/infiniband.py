"""InfiniBand ports from sysfs: state, physical state and rate. Never counters: reading those makes some drivers log.

sysfs asks the device's driver, which can hang with it: scans are made by a thread of their own with a deadline.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from gpuwarden.model.host import IbPort
from gpuwarden.model.observation import AnyObservation, PortsSeen, Stamp
from gpuwarden.sidethread import BusyError, SideThread

_PERIOD_SECONDS = 10.0
_DEADLINE_SECONDS = 5.0
_MOST_BYTES = 256
_NUMBERED = re.compile(r"\d+:\s*(?P<word>\S.*)")  # "4: ACTIVE", "5: LinkUp"
_RATE = re.compile(r"(?P<gigabits>\d+(?:\.\d+)?)\s*Gb/sec")  # "400 Gb/sec (4X NDR)"


def scan(root: Path) -> tuple[IbPort, ...]:
    """Return the ports under a sysfs root, by device and number; a host without RDMA devices has none.

    Raises: OSError where the folder is there and cannot be read. A file that is missing or garbled is an empty word.
    """
    found = []
    try:
        devices = sorted((root / "class" / "infiniband").iterdir())
    except FileNotFoundError:
        return ()
    for device in devices:
        for port in _ports(device):
            found.append(
                IbPort(
                    device=device.name,
                    port=int(port.name),
                    state=_word(port / "state"),
                    phys_state=_word(port / "phys_state"),
                    rate_bits_per_second=_rate(port / "rate"),
                    link_layer=_text(port / "link_layer"),
                )
            )
    return tuple(found)


def _ports(device: Path) -> list[Path]:
    try:
        return sorted((port for port in (device / "ports").iterdir() if port.name.isdecimal()), key=lambda p: p.name)
    except OSError:  # a device that is just being removed
        return []


def _word(path: Path) -> str:
    found = _NUMBERED.fullmatch(_text(path))
    return found["word"] if found else ""


def _rate(path: Path) -> float | None:
    found = _RATE.match(_text(path))
    return float(found["gigabits"]) * 1e9 if found else None


def _text(path: Path) -> str:
    """Return the text of a small file, "" when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return ""


class PortWatch:
    """Scans `root` every `period_seconds` and emits a PortsSeen each time; a late scan is told as unreadable."""

    def __init__(
        self,
        emit: Callable[[AnyObservation], None],
        clock: Callable[[], Stamp],
        *,
        root: Path = Path("/sys"),
        period_seconds: float = _PERIOD_SECONDS,
        deadline_seconds: float = _DEADLINE_SECONDS,
    ) -> None:
        self._emit = emit
        self._clock = clock
        self._root = root
        self._period_seconds = period_seconds
        self._deadline_seconds = deadline_seconds
        self._thread = SideThread("infiniband", 1)
        self._readable = True
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Scan until cancelled. A scan that hangs keeps its thread; there is never a second one beside it."""
        try:
            while True:
                try:
                    ports = await self._thread.call(partial(scan, self._root), self._deadline_seconds)
                    self._tell(ports, "")
                except (TimeoutError, BusyError):
                    self._tell((), "the scan does not come back")
                except OSError as error:
                    self._tell((), error.strerror or str(error))
                await asyncio.sleep(self._period_seconds)
        finally:
            self._thread.close()

    def _tell(self, ports: tuple[IbPort, ...], detail: str) -> None:
        if detail and self._readable:
            self._log.warning("infiniband.not_seen", detail=detail)
        self._readable = not detail
        self._emit(PortsSeen(at=self._clock(), readable=self._readable, ports=ports))
