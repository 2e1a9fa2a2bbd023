"""From an intent to its outcome: known already, refused at the door, or begun, written down, done and written down.

Effects run side by side, one per GPU and one for the node. A child that survives its SIGKILL blocks its own place only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from gpuwarden.actuators.backend import Answer, failed, refused, unknown
from gpuwarden.actuators.children import Child, ChildError
from gpuwarden.actuators.door import COUNTED_BY_GPU, OF_ONE_GPU, Visit, malformed, refusal
from gpuwarden.actuators.eyes import device_at
from gpuwarden.actuators.ledger import Ledger, LedgerError, digest_of
from gpuwarden.actuators.site import Site
from gpuwarden.actuators.wire import RESPONSES, Answered, Ask, Look, Seen
from gpuwarden.actuators.work import Job, Tidy
from gpuwarden.config import Config
from gpuwarden.errors import ConfigError
from gpuwarden.model.case import GIVES_BACK, ActionKind, Intent, Outcome, Surroundings
from gpuwarden.model.stamp import Stamp
from gpuwarden.sidethread import BusyError, SideThread
from gpuwarden.stopswitch import read_switch

LOOK_SECONDS = 15.0
_FILE_SECONDS = 5.0
_STOP_SECONDS = 2.0
_TIDY_SECONDS = 60.0
_MOST_PLACES = 64
_NODE = "node"
_Result = TypeVar("_Result")


class CannotAnswerError(Exception):
    """There is no answer to this question: nothing was begun, and nothing is known of what was asked."""


class Performer:
    """The actuator's work, whoever asks for it."""

    def __init__(self, site: Site, clock: Callable[[], Stamp], reread: Callable[[], Config] | None = None) -> None:
        self._site = site
        self._reread = reread
        self._clock = clock
        self._ledger: Ledger | None = None
        self._ledger_detail = "not opened yet"
        self._disk = SideThread("ledger", 64)
        self._facts: dict[str, SideThread] = {}
        self._running: dict[str, asyncio.Task[Answer]] = {}
        self._places: dict[str, asyncio.Lock] = {}
        self._stuck: dict[str, Child] = {}
        self._looking: asyncio.Task[Surroundings] | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._log = structlog.get_logger()

    async def open(self) -> None:
        """Open the ledger. One that cannot be used is told with every answer, and nothing is begun."""
        path = Path(self._site.place.state_dir) / "ledger.db"
        self._tidying = asyncio.create_task(self._tidy(), name="tidy")
        try:
            self._ledger = await self._disk.call(lambda: Ledger(path), _FILE_SECONDS)
        except (LedgerError, TimeoutError, BusyError) as error:
            self._ledger_detail = str(error) or "the ledger cannot be opened in time"
            self._log.error("ledger.unusable", detail=self._ledger_detail)

    @property
    def busy(self) -> bool:
        """Return whether anything is under way."""
        tidying = self._tidying is not None and not self._tidying.done()
        return tidying or bool(self._running) or any(not child.ended for child in self._stuck.values())

    # ---- effects

    async def ask(self, intent: Intent) -> Answer:
        """Return what becomes of an intent, or became of it. Raises: CannotAnswerError.

        Whoever asks while it is under way waits for the same end; nobody's going away stops it.
        """
        if why := malformed(intent):
            return refused(why)
        task = self._running.get(intent.id)
        if task is None:
            task = asyncio.create_task(self._perform(intent), name=f"intent {intent.id}")
            self._running[intent.id] = task
            task.add_done_callback(lambda _: self._running.pop(intent.id, None))
        return await asyncio.shield(task)

    async def _perform(self, intent: Intent) -> Answer:
        if (known := await self._known(intent)) is not None:
            return known
        if why := await self._follow_config():
            return self._not_now(intent, why)
        loop = asyncio.get_running_loop()
        until = loop.time() + intent.deadline_seconds
        name = intent.bdf if intent.action in OF_ONE_GPU else _NODE
        lock = self._places.setdefault(name, asyncio.Lock())
        try:
            async with asyncio.timeout_at(until):
                await lock.acquire()
        except TimeoutError:
            return self._not_now(intent, f"another effect is under way on {name}")
        try:
            if (refusal := await self._begin(intent, name, until)) is not None:
                return refusal
            self._log.info("effect.begun", intent=intent.id, action=intent.action.value, bdf=intent.bdf)
            answer = await self._in_child(intent, name, until - loop.time())
        finally:
            lock.release()
        self._log.info("effect.ended", intent=intent.id, outcome=answer.outcome.value, detail=answer.detail)
        try:
            await self._with_ledger(lambda ledger: ledger.end(intent.id, *answer, self._clock()))
        except CannotAnswerError as error:
            self._log.error("ledger.not_written", intent=intent.id, detail=str(error))
        if answer.outcome is Outcome.EFFECT_UNKNOWN:  # its child may have been cut off with something put aside
            self._tidying = asyncio.create_task(self._tidy(), name="tidy")
        return answer

    async def _follow_config(self) -> str:
        """Take over what the configuration says now: all of it, or none and why. Nothing is begun by an old one."""
        if self._reread is None:
            return ""
        try:
            config = await self._thread("config").call(self._reread, _FILE_SECONDS)
        except ConfigError as error:
            return f"the actuator's configuration cannot be used: {error}"
        except (TimeoutError, BusyError):
            return "the actuator's configuration cannot be read in time"
        self._site = msgspec.structs.replace(self._site, config=config)
        return ""

    async def _begin(self, intent: Intent, place: str, until: float) -> Answer | None:
        """Write down that an intent is begun, or return why it is not. Raises: CannotAnswerError."""
        left = max(0.0, until - asyncio.get_running_loop().time())
        if (child := self._stuck_on(place)) is not None:
            return self._not_now(intent, f"process {child.pid} does not end on {place}")
        if intent.action is ActionKind.REBOOT and not await self._alone(intent, left):
            return refused("another effect is under way on this host")
        if intent.action is ActionKind.RESET and self._tidying is not None:
            await asyncio.wait((self._tidying,), timeout=left)
        try:
            if why := await self._refusal(intent):
                return refused(why)
            await self._with_ledger(lambda ledger: ledger.begin(intent, self._clock()))
        except CannotAnswerError as error:
            return self._not_now(intent, str(error))
        return None

    async def _known(self, intent: Intent) -> Answer | None:
        """Return what the ledger has of an intent, None for nothing. Raises: CannotAnswerError."""
        if self._ledger is None:
            return self._not_now(intent, f"the ledger cannot be used: {self._ledger_detail}")
        record = await self._with_ledger(lambda ledger: ledger.find(intent.id))
        if record is None:
            return None
        if record.digest != digest_of(intent):
            return refused("another effect has this id")
        return Answer(record.outcome, record.detail) if record.outcome is not None else unknown("never ended")

    def _not_now(self, intent: Intent, why: str) -> Answer:
        """Refuse; but what gives back is not refused for want of means: it stays to be asked for."""
        if intent.action in GIVES_BACK:
            raise CannotAnswerError(why)
        return refused(why)

    def _stuck_on(self, place: str) -> Child | None:
        """Return the child that does not end there, None where there is none any more."""
        child = self._stuck.get(place)
        if child is not None and child.ended:
            del self._stuck[place]
            return None
        return child

    async def _alone(self, intent: Intent, seconds: float) -> bool:
        """Return whether nothing else is under way, waiting for that: what is cut off by a reboot ends unknown."""
        others = {task for name, task in self._running.items() if name != intent.id}
        if not others:
            return True
        _, pending = await asyncio.wait(others, timeout=seconds)
        return not pending

    async def _refusal(self, intent: Intent) -> str:
        now = self._clock()
        on_gpu = reboots = 0
        if intent.action in COUNTED_BY_GPU:
            on_gpu = await self._with_ledger(lambda led: led.begun_within_a_day(COUNTED_BY_GPU, intent.bdf, now))
        if intent.action is ActionKind.REBOOT:
            reboots = await self._with_ledger(lambda led: led.begun_within_a_day((ActionKind.REBOOT,), None, now))
        try:
            look = partial(device_at, self._site.place, intent.bdf)
            device = await self._thread(intent.bdf).call(look, _FILE_SECONDS)
        except (TimeoutError, BusyError):
            raise CannotAnswerError("the PCI bus does not answer") from None
        stopped, detail = await self.stop_switch()
        return refusal(Visit(intent, self._site.config, now, stopped, detail, device, on_gpu, reboots))

    def _thread(self, about: str) -> SideThread:
        """Return the thread for one GPU's files, or the stop switch: a read that hangs keeps no other."""
        if about not in self._facts:
            if len(self._facts) >= _MOST_PLACES:
                raise BusyError("too many addresses were asked about")
            self._facts[about] = SideThread(f"facts {about}", 8)
        return self._facts[about]

    async def _with_ledger(self, work: Callable[[Ledger], _Result]) -> _Result:
        """Return what comes of doing something with the ledger, in its thread. Raises: CannotAnswerError."""
        assert self._ledger is not None
        ledger = self._ledger
        try:
            return await self._disk.call(lambda: work(ledger), _FILE_SECONDS)
        except (LedgerError, TimeoutError, BusyError) as error:
            raise CannotAnswerError(f"the ledger: {error or 'does not answer'}") from None

    async def _in_child(self, intent: Intent, place: str, seconds: float) -> Answer:
        child: Child | None = None
        try:
            child = await Child.start(Job(site=self._site, task=Ask(intent)))
            answer = RESPONSES.decode(await child.answer(max(1.0, seconds)))
        except (ChildError, msgspec.DecodeError) as error:
            return unknown(str(error)) if child is not None else failed(str(error))
        finally:
            if child is not None and not child.ended:
                self._stuck[place] = child
        return Answer(answer.outcome, answer.detail) if isinstance(answer, Answered) else unknown("no such answer")

    async def _tidy(self) -> None:
        """Have put back what an effect that was cut off had put aside."""
        try:
            child = await Child.start(Job(site=self._site, task=Tidy()))
            await child.answer(_TIDY_SECONDS)
        except ChildError as error:
            self._log.error("effect.not_tidied", detail=str(error))

    # ---- looks

    async def stop_switch(self) -> tuple[bool | None, str]:
        """Return whether the stop switch is on as this process reads it; None where it cannot."""
        paths = tuple(Path(path) for path in self._site.config.guards.stop_paths)
        try:
            return await self._thread("stop").call(partial(read_switch, paths), _STOP_SECONDS)
        except (TimeoutError, BusyError):
            return None, "the stop switch could not be read in time"

    async def look(self) -> Surroundings:
        """Return what is seen around the node. Whoever looks at the same time sees the same."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="look")
        return await asyncio.shield(self._looking)

    async def _look(self) -> Surroundings:
        stopped, detail = await self.stop_switch()
        if self._ledger is None:
            return Surroundings(stopped=stopped, detail=f"the ledger cannot be used: {self._ledger_detail}")
        if why := await self._follow_config():
            return Surroundings(stopped=stopped, detail=why)
        if (child := self._stuck_on("look")) is not None:
            detail = f"process {child.pid}, which looked around, does not end"
            return Surroundings(actuator_up=True, stopped=stopped, detail=detail)
        try:
            child = await Child.start(Job(site=self._site, task=Look()))
            seen = RESPONSES.decode(await child.answer(LOOK_SECONDS))
        except (ChildError, msgspec.DecodeError) as error:
            return Surroundings(actuator_up=True, stopped=stopped, detail=f"nothing could be seen: {error}")
        finally:
            if child is not None and not child.ended:
                self._stuck["look"] = child
        around = seen.surroundings if isinstance(seen, Seen) else Surroundings()
        return msgspec.structs.replace(around, actuator_up=True, stopped=stopped, detail=around.detail or detail)
