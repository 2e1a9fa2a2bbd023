"""The journal as the daemon holds it: commits without waiting, reads with a deadline, and how it is doing."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import structlog

from gpuwarden.errors import JournalError
from gpuwarden.journal.reading import events_in, reading
from gpuwarden.journal.requests import Request, waiting_in
from gpuwarden.journal.rows import Remembered
from gpuwarden.journal.schema import FILE_NAME
from gpuwarden.journal.writer import JournalStatus, Writer
from gpuwarden.model.finding import Event
from gpuwarden.model.observation import KmsgCursor
from gpuwarden.model.snapshot import NodeState
from gpuwarden.sidethread import BusyError, SideThread

_OPEN_SECONDS = 5.0
_RETRY_SECONDS = 1.0
_READ_SECONDS = 3.0
_READERS = 8

_Found = TypeVar("_Found")


class Journal:
    """One journal, from `open` to `close`. Everything but `open` is called in the event loop and never blocks."""

    def __init__(self, state_dir: Path, boot_id: str, *, retry_seconds: float = _RETRY_SECONDS) -> None:
        self._path = state_dir / FILE_NAME
        self._writer = Writer(self._path, boot_id, retry_seconds=retry_seconds)
        self._reader = SideThread("journal-reader", _READERS)
        self._handed: set[tuple[int, float]] = set()  # requests given out whose mark may not be written yet
        self._log = structlog.get_logger()

    @classmethod
    def open(
        cls, state_dir: Path, boot_id: str, *, retry_seconds: float = _RETRY_SECONDS
    ) -> tuple[Journal, Remembered]:
        """Return the journal of `state_dir` and what it remembers; waits for the disk 5 s at most.

        Never raises for a journal that is newer, damaged or cannot be written: `status()` says so, what cannot be read
        is not remembered, and what happens from now on waits in memory until it can be written.
        """
        journal = cls(state_dir, boot_id, retry_seconds=retry_seconds)
        remembered = journal._writer.start(_OPEN_SECONDS)
        if remembered is None:
            journal._log.error("journal.silent", path=str(journal._path), waited_seconds=_OPEN_SECONDS)
        return journal, remembered or Remembered()

    def commit(
        self,
        events: Iterable[Event],
        before: NodeState,
        after: NodeState,
        cursor: KmsgCursor | None = None,
        when_written: Callable[[], None] | None = None,
    ) -> None:
        """Have a step of the engine written: its events, and with them whatever changed since the last commit.

        `when_written` is called in the event loop once all of it is on the disk; never, where it cannot be written.

        Changes of steps without events ride along with the next one. The cursor is written together with the
        counters and incidents its line led to, never before them.
        """
        told = None
        if when_written is not None:
            loop = asyncio.get_running_loop()

            def told() -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: the daemon has ended
                    loop.call_soon_threadsafe(when_written)

        self._writer.commit(events, before, after, cursor, told)

    def status(self) -> JournalStatus:
        """Return how the journal is doing now."""
        return self._writer.status()

    async def events(self, kind: str | None, since: float | None, limit: int) -> list[Event]:
        """Return the newest `limit` events, oldest first. Raises: JournalError where the journal cannot be read."""
        return await self._read(lambda connection: events_in(connection, kind, since, limit))

    async def take_requests(self) -> list[Request]:
        """Return what operators asked for since the last call, and have it marked as taken.

        Raises: JournalError where the journal cannot be read.
        """
        waiting = await self._read(waiting_in)
        found = [request for request in waiting if (request.id, request.time) not in self._handed]
        self._handed = {(request.id, request.time) for request in waiting}
        self._writer.mark_taken([request.id for request in found])
        return found

    async def close(self, seconds: float = 2.0) -> None:
        """Write what waits and close the file; after `seconds` a disk that does not answer is left alone."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            with contextlib.suppress(RuntimeError):  # nobody waits any more: the loop is closed
                loop.call_soon_threadsafe(ended.set)

        self._writer.stop(end)
        self._reader.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await ended.wait()
        status = self.status()
        if not ended.is_set() or status.waiting:
            self._log.error("journal.left_unwritten", events=status.waiting, detail=status.detail)

    async def _read(self, look: Callable[[sqlite3.Connection], _Found]) -> _Found:
        def read() -> _Found:
            with reading(self._path) as connection:
                return look(connection)

        try:
            return await self._reader.call(read, _READ_SECONDS)
        except (TimeoutError, BusyError):
            raise JournalError(f"{self._path}: the journal does not answer") from None
