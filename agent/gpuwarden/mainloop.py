"""The loop around the engine: observations in, the present NodeState kept, events and commands handed on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from gpuwarden.engine import RemediationError, Step, advance, failed
from gpuwarden.inbox import Inbox
from gpuwarden.model.observation import AnyObservation
from gpuwarden.model.snapshot import NodeState

_SLICE_SECONDS = 0.005
"""How long observations are taken without giving the loop back; HTTP and the watchdog wait at most this and a step."""

Taken = Callable[[AnyObservation, NodeState, Step], None]
"""Called after each step with the observation, the state before it and the step. Must not block."""


class MainLoop:
    """Owns the node's state. A step that raises leaves the old state in place, is counted, and the loop goes on."""

    def __init__(self, state: NodeState, inbox: Inbox, taken: Taken) -> None:
        self.state = state
        self.revision = 0
        self._inbox = inbox
        self._taken = taken
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Take observations until cancelled."""
        while True:
            self.take(await self._inbox.get())
            until = time.monotonic() + _SLICE_SECONDS
            while len(self._inbox) and time.monotonic() < until:
                self.take(await self._inbox.get())
            await asyncio.sleep(0)

    def take(self, observation: AnyObservation) -> None:
        """Advance the engine by one observation and hand the outcome on."""
        before = self.state
        try:
            step = advance(before, observation)
        except RemediationError as error:  # its cause is logged with it
            self._log.exception("engine.remediation_failed", observation=type(observation).__name__)
            step = replace(error.step, state=failed(error.step.state))
        except Exception:  # the engine's own fault: finding host.engine_error, and the next observation gets its chance
            self._log.exception("engine.step_failed", observation=type(observation).__name__)
            step = Step(state=failed(before))
        self.state = step.state
        self.revision += 1
        self._taken(observation, before, step)
