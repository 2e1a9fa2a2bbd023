"""The state of the service units that GPUs depend on, as systemd tells it: `systemctl show` in a child with a deadline.

Where there is no systemd (a container, another init) nothing is known about services; that is said once, and looked
for again, since the bus may only have been late.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import structlog

from gpuwarden.model.host import UNITS, ServiceUnit
from gpuwarden.model.observation import AnyObservation, ServicesSeen, Stamp
from gpuwarden.sidethread import BusyError, SideThread

_PERIOD_SECONDS = 30.0
_DEADLINE_SECONDS = 5.0
_GRACE_SECONDS = 1.0  # for the child's end, beyond its own deadline
_FIELDS = {"Id": "name", "LoadState": "load", "ActiveState": "active", "SubState": "sub", "UnitFileState": "enabled"}
_COMMAND = ("systemctl", "show", "--no-pager", f"--property={','.join(_FIELDS)}", "--", *UNITS)

Show = Callable[[], str]
"""Returns what `systemctl show` prints about the units. Raises: OSError, subprocess.SubprocessError."""


def systemctl() -> str:
    """Ask the service manager. Raises: OSError without a systemctl, SubprocessError where it fails or is late."""
    done = subprocess.run(_COMMAND, capture_output=True, check=True, timeout=_DEADLINE_SECONDS)
    return done.stdout.decode("utf-8", "replace")


def from_file(path: Path) -> Show:
    """Return an asker that finds the answer in a file: the simulated node's service manager."""
    return lambda: path.read_text("utf-8")


def parse(shown: str) -> tuple[ServiceUnit, ...]:
    """Return the units of `systemctl show`: blocks of KEY=VALUE, an empty line between them. Other keys are skipped."""
    units = []
    for block in shown.split("\n\n"):
        pairs = (line.partition("=") for line in block.splitlines())
        fields = {_FIELDS[key]: value.strip() for key, _, value in pairs if key in _FIELDS}
        if fields.get("name"):
            units.append(ServiceUnit(**fields))
    return tuple(units)


class ServiceWatch:
    """Asks every `period_seconds` and emits a ServicesSeen each time."""

    def __init__(
        self,
        emit: Callable[[AnyObservation], None],
        clock: Callable[[], Stamp],
        *,
        show: Show = systemctl,
        period_seconds: float = _PERIOD_SECONDS,
        deadline_seconds: float = _DEADLINE_SECONDS + _GRACE_SECONDS,
    ) -> None:
        self._emit = emit
        self._clock = clock
        self._show = show
        self._period_seconds = period_seconds
        self._deadline_seconds = deadline_seconds
        self._thread = SideThread("services", 1)
        self._told: str | None = None
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Ask until cancelled. A child that outlives its SIGKILL keeps its thread, and nobody else."""
        try:
            while True:
                self._tell(*await self._ask())
                await asyncio.sleep(self._period_seconds)
        finally:
            self._thread.close()

    async def _ask(self) -> tuple[tuple[ServiceUnit, ...], str]:
        """Return the units, or none and why nothing is known."""
        try:
            units = parse(await self._thread.call(self._show, self._deadline_seconds))
        except FileNotFoundError:
            return (), "no systemctl here"
        except (subprocess.TimeoutExpired, TimeoutError, BusyError):
            return (), "the service manager does not answer"
        except subprocess.CalledProcessError as error:
            said: bytes = error.stderr or b""
            return (), said.decode("utf-8", "replace").strip().splitlines()[0][:200] if said.strip() else str(error)
        except (OSError, subprocess.SubprocessError) as error:
            return (), str(error)
        return units, "" if units else "the service manager names no unit"

    def _tell(self, units: tuple[ServiceUnit, ...], detail: str) -> None:
        if detail and detail != self._told:
            self._log.warning("services.not_seen", detail=detail)
        self._told = detail
        self._emit(ServicesSeen(at=self._clock(), readable=not detail, units=units, detail=detail))
