"""The journal as the daemon holds it: commits without waiting, one writer thread, and how it is doing.

The event loop leaves what changed in `Changes` and goes on. The writer takes all that is there, writes it in one
transaction, and rests a moment, so that commits group themselves. What cannot be written stays in memory, bounded, and
is tried again; the loop, `/metrics` and the watchdog never wait for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import msgspec
import structlog

from gpuwarden.errors import JournalError
from gpuwarden.journal.reading import events_in, reading
from gpuwarden.journal.requests import Request, waiting_in
from gpuwarden.journal.rows import Changes, Differ, Remembered
from gpuwarden.journal.schema import FILE_NAME
from gpuwarden.journal.store import Store, is_damage, set_aside
from gpuwarden.model.finding import Event
from gpuwarden.model.observation import KmsgCursor
from gpuwarden.model.snapshot import NodeState
from gpuwarden.sidethread import BusyError, SideThread

_OPEN_SECONDS = 5.0
_GROUP_SECONDS = 0.1
_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 30.0
_TIDY_SECONDS = 3600.0
_SILENT_SECONDS = 5.0
_READ_SECONDS = 3.0
_READERS = 8


class JournalStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the journal is doing. `waiting` counts events that are in memory only, `lost` those there was no room for."""

    writable: bool
    detail: str
    size_bytes: int = 0
    write_errors: int = 0
    waiting: int = 0
    lost: int = 0


class Journal:
    """One journal, from `open` to `close`. Everything but `open` is called in the event loop and never blocks."""

    def __init__(self, state_dir: Path, boot_id: str, *, retry_seconds: float = _FIRST_RETRY_SECONDS) -> None:
        self._path = state_dir / FILE_NAME
        self._boot_id = boot_id
        self._retry_seconds = retry_seconds
        self._log = structlog.get_logger()
        self._wake = threading.Condition()  # guards all of the following
        self._changes = Changes()
        self._differ = Differ()
        self._stopping = False
        self._flying = 0  # events the writer has in hand
        self._busy_since: float | None = None  # monotonic, while the writer is at the disk
        self._failure: str | None = "not open yet"
        self._said = ""  # what was set aside
        self._size_bytes = 0
        self._write_errors = 0
        self._lost = 0
        self._remembered = Remembered()
        self._opened = threading.Event()
        self._ended = False
        self._when_ended: Callable[[], object] = bool
        self._store: Store | None = None  # the writer's own
        self._reader = SideThread("journal-reader", _READERS)
        self._handed: set[tuple[int, float]] = set()  # requests given out whose mark may not be written yet
        self._anew = False

    @classmethod
    def open(
        cls, state_dir: Path, boot_id: str, *, retry_seconds: float = _FIRST_RETRY_SECONDS
    ) -> tuple[Journal, Remembered]:
        """Return the journal of `state_dir` and what it remembers; waits for the disk 5 s at most.

        Never raises for a journal that is newer, damaged or cannot be written: `status()` says so, nothing is
        remembered, and what happens from now on waits in memory until it can be.
        """
        journal = cls(state_dir, boot_id, retry_seconds=retry_seconds)
        threading.Thread(target=journal._run, name="journal-writer", daemon=True).start()
        if not journal._opened.wait(_OPEN_SECONDS):
            journal._log.error("journal.silent", path=str(journal._path), waited_seconds=_OPEN_SECONDS)
        with journal._wake:
            return journal, journal._remembered

    def commit(
        self, events: Iterable[Event], before: NodeState, after: NodeState, cursor: KmsgCursor | None = None
    ) -> None:
        """Have a step of the engine written: its events, and with them whatever changed since the last commit.

        Changes of steps without events ride along with the next one. The cursor is written together with the
        counters and incidents its line led to, never before them.
        """
        with self._wake:
            self._changes.add_events(events)
            self._differ.collect(after, self._changes, before)
            self._changes.cursor = cursor or self._changes.cursor
            self._wake.notify_all()

    def status(self) -> JournalStatus:
        """Return how the journal is doing now."""
        with self._wake:
            detail = self._failure
            if self._busy_since is not None and time.monotonic() - self._busy_since > _SILENT_SECONDS:
                detail = f"the disk has not answered for {time.monotonic() - self._busy_since:.0f} s"
            return JournalStatus(
                writable=detail is None,
                detail="; ".join(text for text in (detail, self._said) if text),
                size_bytes=self._size_bytes,
                write_errors=self._write_errors,
                waiting=len(self._changes.events) + self._flying,
                lost=self._lost + self._changes.lost,
            )

    async def events(self, kind: str | None, since: float | None, limit: int) -> list[Event]:
        """Return the newest `limit` events, oldest first. Raises: JournalError where the journal cannot be read."""

        def read() -> list[Event]:
            with reading(self._path) as connection:
                return events_in(connection, kind, since, limit)

        try:
            return await self._reader.call(read, _READ_SECONDS)
        except (TimeoutError, BusyError):
            raise JournalError("the journal does not answer") from None

    async def take_requests(self) -> list[Request]:
        """Return what operators asked for since the last call, and have it marked as taken.

        Raises: JournalError where the journal cannot be read.
        """

        def read() -> list[Request]:
            with reading(self._path) as connection:
                return waiting_in(connection)

        try:
            waiting = await self._reader.call(read, _READ_SECONDS)
        except (TimeoutError, BusyError):
            raise JournalError("the journal does not answer") from None
        found = [request for request in waiting if (request.id, request.time) not in self._handed]
        self._handed = {(request.id, request.time) for request in waiting}
        with self._wake:
            self._changes.taken += [request.id for request in found]
            self._wake.notify_all()
        return found

    async def close(self, seconds: float = 2.0) -> None:
        """Write what waits and close the file; after `seconds` a disk that does not answer is left alone."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        with self._wake:
            self._stopping = True
            self._when_ended = partial(loop.call_soon_threadsafe, ended.set)
            if self._ended:
                ended.set()
            self._wake.notify_all()
        self._reader.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await ended.wait()
        status = self.status()
        if not ended.is_set() or status.waiting:
            self._log.error("journal.left_unwritten", events=status.waiting, detail=status.detail)

    # ---- the writer thread

    def _run(self) -> None:
        pause, tidied = self._retry_seconds, -_TIDY_SECONDS
        try:
            while True:
                last = self._stopping
                failed = not self._attempt()
                self._opened.set()
                if last and (failed or not self._changes):
                    return
                is_due = not failed and time.monotonic() - tidied >= _TIDY_SECONDS
                more = is_due and self._tidy()
                if is_due and not more:
                    tidied = time.monotonic()
                self._rest(pause if failed else _GROUP_SECONDS, idle=not (failed or more))
                pause = min(2 * pause, _LONGEST_RETRY_SECONDS) if failed else self._retry_seconds
        finally:
            self._let_go()
            with self._wake:
                self._ended = True
            self._opened.set()
            with contextlib.suppress(RuntimeError):  # nobody waits any more: the loop is closed
                self._when_ended()

    def _rest(self, seconds: float, *, idle: bool) -> None:
        """Wait for `seconds`, then, where nothing is to be done again anyway, until there is something to write."""
        with self._wake:
            self._wake.wait_for(lambda: self._stopping, seconds)
            if idle:
                self._wake.wait_for(lambda: self._stopping or bool(self._changes), _TIDY_SECONDS)

    def _attempt(self) -> bool:
        """Write what waits; return whether that worked. A damaged file is set aside and a new one tried at once."""
        return self._write() or (self._anew and self._write())

    def _write(self) -> bool:
        changes = self._taken()
        try:
            store = self._at_hand(changes)
            if changes:
                store.write(changes, self._boot_id)
            size = store.size_bytes()
        except (sqlite3.Error, OSError, msgspec.MsgspecError) as error:
            self._failed(error, changes)
            return False
        except Exception as error:  # the top of this thread: a defect must not end the journal for good
            self._log.exception("journal.write_failed")
            self._failed(error, changes)
            return False
        with self._wake:
            resumed, self._failure = self._failure is not None and self._write_errors > 0, None
            self._busy_since, self._flying = None, 0
            self._size_bytes = size
            self._lost += changes.lost
        if resumed:
            self._log.info("journal.resumed", path=str(self._path), events=len(changes.events), lost=changes.lost)
        return True

    def _taken(self) -> Changes:
        with self._wake:
            changes, self._changes = self._changes, Changes()
            self._flying = len(changes.events)
            self._busy_since = time.monotonic()
            return changes

    def _at_hand(self, changes: Changes) -> Store:
        """Return the open file; a file that was taken away or replaced is started anew, with all we know in it."""
        if self._store is not None and not self._store.is_in_place():
            self._let_go()
            self._log.warning("journal.replaced", path=str(self._path))
            with self._wake:
                self._said = "the journal was removed while in use and started anew"
                _under(changes, self._differ.everything())
        if self._store is None:
            self._store, said = Store.open(self._path.parent)
            with self._wake:
                self._said = said or self._said
            if not self._opened.is_set():
                self._remember(self._store)
        return self._store

    def _remember(self, store: Store) -> None:
        remembered = store.remembered(self._boot_id)
        with self._wake:
            self._remembered = remembered

    def _failed(self, error: Exception, changes: Changes) -> None:
        """Keep what could not be written, and say so once."""
        damaged = is_damage(error)
        if not _is_passing(error):
            self._let_go()
        said = self._set_aside(error) if damaged else ""
        with self._wake:
            self._anew = bool(said)
            if said:
                self._said = said
                _under(changes, self._differ.everything())
            self._changes = changes.then(self._changes)
            news, self._failure = self._failure != str(error), str(error)
            self._write_errors += 1
            self._busy_since, self._flying = None, 0
        if news:
            self._log.error("journal.not_written", path=str(self._path), detail=str(error))

    def _let_go(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _set_aside(self, error: Exception) -> str:
        try:
            return set_aside(self._path, "corrupt", str(error))
        except OSError:  # the directory cannot be written either: nothing is, then
            return ""

    def _tidy(self) -> bool:
        """Drop old history in small steps, giving way to what has to be written; return whether more is left."""
        try:
            return self._store is not None and self._store.tidy(self._boot_id, time.time())
        except (sqlite3.Error, OSError) as error:
            self._log.warning("journal.not_tidied", detail=str(error))
            return False


def _under(changes: Changes, whole: Changes) -> None:
    """Put everything that is known under what changed: for a file that starts empty."""
    changes.inventory = whole.inventory | changes.inventory
    changes.counters = whole.counters | changes.counters
    changes.incidents = whole.incidents if changes.incidents is None else changes.incidents


def _is_passing(error: Exception) -> bool:
    """Return whether the open file is still good: the disk is full, or another process holds the lock."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
