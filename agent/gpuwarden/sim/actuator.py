"""The actuator of a simulated node: what the daemon's runner asks when it watches one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from gpuwarden.errors import ActuatorError, InputError
from gpuwarden.model.case import Intent, Outcome, Surroundings
from gpuwarden.sidethread import BusyError, SideThread
from gpuwarden.sim.client import bring_about, surroundings
from gpuwarden.sim.hands import SECONDS

_DEADLINE_SECONDS = 5.0


class SimActuator:
    """Brings effects about on the node behind a socket. `rebooted` is told the new boot id when the host comes up."""

    def __init__(self, socket: Path, speed: float, rebooted: Callable[[str], None]) -> None:
        self._socket = socket
        self._speed = speed
        self._rebooted = rebooted
        self._thread = SideThread("sim-actuator", 8)

    async def ask(self, intent: Intent) -> tuple[Outcome, str]:
        """Return what became of an effect, after the time it takes. Raises: ActuatorError."""
        await asyncio.sleep(SECONDS[intent.action] / self._speed)
        try:
            brought = await self._thread.call(lambda: bring_about(self._socket, intent), _DEADLINE_SECONDS)
        except (OSError, TimeoutError, BusyError, InputError) as error:
            raise ActuatorError(f"the simulated node does not answer: {error}") from None
        if brought.boot_id:
            self._rebooted(brought.boot_id)
        return brought.outcome, brought.detail

    async def look(self) -> Surroundings:
        """Return what is seen around the node. Raises: ActuatorError."""
        try:
            return await self._thread.call(lambda: surroundings(self._socket), _DEADLINE_SECONDS)
        except (OSError, TimeoutError, BusyError, InputError) as error:
            raise ActuatorError(f"the simulated node does not answer: {error}") from None
