"""THE HANDS' near end: takes intents that are on the disk to the actuator, and tells what became of them.

An intent is asked for until it has an outcome; whoever did it once answers with what it came to. Around it lie the two
looks that guards need: at the stop switch, and at what the actuator sees of the node's surroundings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import structlog

from gpuwarden.errors import ActuatorError
from gpuwarden.model.case import GIVES_BACK, ActionKind, Intent, Outcome, Surroundings
from gpuwarden.model.observation import ActionEnded, AnyObservation, Stamp, StopRead, SurroundingsSeen
from gpuwarden.model.snapshot import NodeState
from gpuwarden.sidethread import BusyError, SideThread
from gpuwarden.stopswitch import read_switch

_STOP_SECONDS = 1.0
_LOOK_BUSY_SECONDS, _LOOK_IDLE_SECONDS = 5.0, 30.0
_LOOK_DEADLINE_SECONDS = 20.0
_READ_DEADLINE_SECONDS = 2.0
_GRACE_SECONDS = 10.0  # over an intent's own deadline: the actuator keeps to it


StopQuery = Callable[[], tuple[bool | None, str]]
"""Tells what the fleet's stop query last said: whether it stops this host, None where that is not known; and why."""


class Actuator(Protocol):
    """Whoever brings effects about: the privileged process, or the simulated node."""

    async def ask(self, intent: Intent) -> tuple[Outcome, str]:
        """Bring an effect about, at most once per intent id, and return its outcome with a word about it.

        Asked again for an id that was done, the recorded outcome. Raises: ActuatorError where there is no answer.
        """
        ...

    async def look(self) -> Surroundings:
        """Return what is seen around the node now. Raises: ActuatorError where there is no answer."""
        ...


class Sessions(Protocol):
    """Our own hold on GPUs, which a reset needs gone: the NVML worker's."""

    async def set_aside(self, bdf: str) -> bool:
        """Let go of one GPU; return whether nobody of ours holds it any more."""
        ...

    async def take_back(self, bdf: str) -> None:
        """Take hold of it again."""
        ...


class Runner:
    """Intents in, outcomes out. `begin` never blocks; each intent is a task of its own, once at a time."""

    def __init__(
        self,
        actuator: Actuator,
        emit: Callable[[AnyObservation], None],
        clock: Callable[[], Stamp],
        node: Callable[[], NodeState],
        stop_paths: Iterable[str],
        *,
        stop_query: StopQuery | None = None,
        sessions: Sessions | None = None,
    ) -> None:
        self._sessions = sessions
        self._actuator = actuator
        self._emit = emit
        self._clock = clock
        self._node = node
        self._stop_paths = tuple(Path(path) for path in stop_paths)
        self._stop_query = stop_query
        self._thread = SideThread("stop-switch", 2)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._log = structlog.get_logger()

    def begin(self, intent: Intent) -> None:
        """Have an intent brought about that is on the disk. One that is under way is not begun again."""
        if intent.id not in self._tasks:
            task = asyncio.create_task(self._bring_about(intent), name=f"intent {intent.id}")
            self._tasks[intent.id] = task
            task.add_done_callback(lambda _: self._tasks.pop(intent.id, None))

    def cancel(self) -> None:
        """Stop waiting for outcomes: the intents are asked for again by whoever runs next."""
        for task in self._tasks.values():
            task.cancel()

    async def _bring_about(self, intent: Intent) -> None:
        """Ask, and tell the outcome. The stop switch is read once more before anything is asked."""
        stopped, why = (False, "") if intent.action in GIVES_BACK else await self._stop_switch()
        if stopped is not False:
            self._end(intent, Outcome.REFUSED, why)
            return
        try:
            async with asyncio.timeout(intent.deadline_seconds + _GRACE_SECONDS):
                outcome, detail = await self._ask(intent)
        except TimeoutError:
            outcome, detail = Outcome.EFFECT_UNKNOWN, "no answer within the deadline"
        except ActuatorError as error:
            outcome, detail = Outcome.EFFECT_UNKNOWN, str(error)
        self._end(intent, outcome, detail)

    async def _ask(self, intent: Intent) -> tuple[Outcome, str]:
        """Ask the actuator; for a reset our own worker lets go of the GPU before, and takes hold of it again after."""
        if intent.action is not ActionKind.RESET or self._sessions is None:
            return await self._actuator.ask(intent)
        try:
            if not await self._sessions.set_aside(intent.bdf):
                return Outcome.REFUSED, "our own NVML worker sits in the driver and cannot be ended"
            return await self._actuator.ask(intent)
        finally:
            await self._sessions.take_back(intent.bdf)

    def _end(self, intent: Intent, outcome: Outcome, detail: str) -> None:
        self._log.info("action.ended", intent=intent.id, outcome=outcome.value, detail=detail)
        self._emit(ActionEnded(at=self._clock(), intent=intent.id, outcome=outcome, detail=detail))
        self._changed.set()

    # ---- looks

    async def watch_stop_switch(self) -> None:
        """Tell the stop switch once a second."""
        while True:
            stopped, detail = await self._stop_switch()
            self._emit(StopRead(at=self._clock(), stopped=stopped, detail=detail))
            await asyncio.sleep(_STOP_SECONDS)

    async def _stop_switch(self) -> tuple[bool | None, str]:
        """Return whether the stop switch is on, None where that could not be read, and what says so.

        The files come first: what the query says, or is late to say, hides none of them.
        """
        try:
            stopped, why = await self._thread.call(lambda: read_switch(self._stop_paths), _READ_DEADLINE_SECONDS)
        except (TimeoutError, BusyError):
            stopped, why = None, "the stop switch could not be read in time"
        return self._stop_query() if stopped is False and self._stop_query is not None else (stopped, why)

    async def watch_surroundings(self) -> None:
        """Tell what the actuator sees: often while there are cases, at once after an outcome."""
        while True:
            self._changed.clear()
            begun = self._clock()  # what comes back later may have been seen at the very beginning
            self._emit(SurroundingsSeen(at=begun, surroundings=await self._look()))
            period = _LOOK_BUSY_SECONDS if self._node().remedy.cases else _LOOK_IDLE_SECONDS
            try:
                async with asyncio.timeout(period):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _look(self) -> Surroundings:
        try:
            async with asyncio.timeout(_LOOK_DEADLINE_SECONDS):
                return await self._actuator.look()
        except TimeoutError:
            return Surroundings(detail=f"no answer within {_LOOK_DEADLINE_SECONDS:.0f} s")
        except ActuatorError as error:
            return Surroundings(detail=str(error))
