"""The writer: the one thread that opens the journal, writes what waits, and tries again where it cannot.

The event loop leaves what changed in `Changes` and goes on. The writer takes all that is there, writes it in one
transaction, and rests a moment, so that commits group themselves. What cannot be written stays in memory, bounded, and
is tried again; the loop, `/metrics` and the watchdog never wait for the disk.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from gpuwarden.errors import JournalError
from gpuwarden.journal.reading import reading, remembered_in
from gpuwarden.journal.rows import Changes, Differ, Remembered
from gpuwarden.journal.store import Store, is_damage, set_aside
from gpuwarden.model.finding import Event
from gpuwarden.model.observation import KmsgCursor
from gpuwarden.model.snapshot import NodeState

_GROUP_SECONDS = 0.1
_LONGEST_RETRY_SECONDS = 30.0
_TIDY_SECONDS = 3600.0
_SILENT_SECONDS = 5.0


class JournalStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the journal is doing. `waiting` counts events that are in memory only, `lost` those there was no room for."""

    writable: bool
    detail: str
    size_bytes: int = 0
    write_errors: int = 0
    waiting: int = 0
    lost: int = 0


class Writer:
    """Owns the file and its thread. What is public is called in other threads and holds the lock for microseconds."""

    def __init__(self, path: Path, boot_id: str, *, retry_seconds: float) -> None:
        self._path = path
        self._boot_id = boot_id
        self._retry_seconds = retry_seconds
        self._log = structlog.get_logger()
        self._opened = threading.Event()  # the file was looked at: what could be remembered is
        self._store: Store | None = None  # the thread's own, as is the next
        self._anew = False
        self._wake = threading.Condition()  # guards all of the following
        self._changes = Changes()
        self._differ = Differ()
        self._remembered = Remembered()
        self._stopping = False
        self._ended = False
        self._when_ended: Callable[[], None] | None = None
        self._flying = 0  # events the thread has in hand
        self._busy_since: float | None = None  # monotonic, while the thread is at the disk
        self._failure: str | None = None
        self._said = ""  # what was set aside or started anew
        self._size_bytes = 0
        self._write_errors = 0
        self._lost = 0

    def start(self, seconds: float) -> Remembered | None:
        """Start the thread and return what the journal remembers; None where the disk took longer than `seconds`."""
        threading.Thread(target=self._run, name="journal-writer", daemon=True).start()
        if not self._opened.wait(seconds):
            return None
        with self._wake:
            return self._remembered

    def commit(
        self,
        events: Iterable[Event],
        before: NodeState,
        after: NodeState,
        cursor: KmsgCursor | None,
        when_written: Callable[[], None] | None,
    ) -> None:
        """Take in what one step of the engine changed; `when_written` is called in the thread once it is durable."""
        with self._wake:
            self._changes.add_events(events)
            self._differ.collect(after, self._changes, before)
            self._changes.cursor = cursor or self._changes.cursor
            if when_written is not None:
                self._changes.when_written.append(when_written)
            self._wake.notify_all()

    def mark_taken(self, requests: list[int]) -> None:
        """Have requests marked as taken."""
        with self._wake:
            self._changes.taken += requests
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

    def stop(self, when_ended: Callable[[], None]) -> None:
        """Have what waits written once more and the file closed, then call `when_ended` from the thread."""
        with self._wake:
            self._stopping, self._when_ended = True, when_ended
            ended = self._ended
            self._wake.notify_all()
        if ended:
            when_ended()

    # ---- the thread

    def _run(self) -> None:
        pause, tidied = self._retry_seconds, -_TIDY_SECONDS
        try:
            while True:
                last = self._stopping
                failed = not self._attempt()
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
                self._ended, when_ended = True, self._when_ended
            if when_ended is not None:
                when_ended()

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
        except Exception as error:  # the top of this thread: one row that cannot be written must not block the rest
            self._log.exception("journal.write_failed", events=len(changes.events))
            changes.drop_events()
            self._failed(error, changes)
            return False
        with self._wake:
            resumed, self._failure = self._failure is not None, None
            self._busy_since, self._flying = None, 0
            self._size_bytes = size
            self._lost += changes.lost
        for told in changes.when_written:
            told()
        self._opened.set()  # only now: whoever waits for it may ask at once whether the journal can be written
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
                self._remember(self._store.remembered(self._boot_id))
        return self._store

    def _remember(self, remembered: Remembered) -> None:
        with self._wake:
            self._remembered = remembered

    def _remember_anyway(self) -> None:
        """Read what was where nothing can be written: a full disk, or one mounted read-only."""

        with suppress(JournalError), reading(self._path) as connection:
            self._remember(remembered_in(connection, self._boot_id))
        self._opened.set()

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
        if not self._opened.is_set() and not damaged and not _is_locked(error):
            self._remember_anyway()
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
        with self._wake:
            self._busy_since = time.monotonic()
        try:
            return self._store is not None and self._store.tidy(self._boot_id, time.time())
        except (sqlite3.Error, OSError) as error:
            self._log.warning("journal.not_tidied", detail=str(error))
            return False
        finally:
            with self._wake:
                self._busy_since = None


def _under(changes: Changes, whole: Changes) -> None:
    """Put everything that is known under what changed: for a file that starts empty."""
    changes.inventory = whole.inventory | changes.inventory
    changes.counters = whole.counters | changes.counters
    changes.baselines = whole.baselines | changes.baselines
    changes.incidents = whole.incidents if changes.incidents is None else changes.incidents
    changes.remedy = changes.remedy or whole.remedy


def _is_passing(error: Exception) -> bool:
    """Return whether the open file is still good: the disk is full, or another process holds the lock."""
    return _code(error) == sqlite3.SQLITE_FULL or _is_locked(error)


def _is_locked(error: Exception) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
