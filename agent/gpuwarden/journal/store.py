"""The journal's file: opened or set aside, read once, written in transactions, kept small. Used by one thread only."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import structlog

from gpuwarden.journal.reading import remembered_in
from gpuwarden.journal.rows import Changes, Remembered
from gpuwarden.journal.schema import FILE_NAME, VERSION, connect, migrate, version_of
from gpuwarden.model.finding import Event
from gpuwarden.model.observation import InventoryRow
from gpuwarden.model.rows import latch_row

KEEP_SECONDS = 90 * 86_400.0
KEEP_EVENTS = 50_000
_DELETE_AT_ONCE = 5_000  # a long transaction would hold up what happens now
_LARGEST_WAL_BYTES = 4 << 20
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_DIRECTORY_MODE, _FILE_MODE = 0o750, 0o640


def is_damage(error: Exception) -> bool:
    """Return whether an error says that the file itself is no journal any more, rather than that the disk failed."""
    if isinstance(error, msgspec.MsgspecError):
        return True
    return isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED


class Store:
    """The open file. Its methods raise sqlite3.Error or OSError where the disk does not do as asked."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._inode = path.stat().st_ino

    # ---- opening

    @classmethod
    def open(cls, state_dir: Path) -> tuple[Store, str]:
        """Return the journal of `state_dir`, made where there was none, and what was set aside for it ("": nothing).

        A file of a newer schema, and one that is damaged, is renamed and never written to.
        """
        state_dir.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        path = state_dir / FILE_NAME
        try:
            return cls(path, _opened(path)), ""
        except _NewerError as newer:
            said = set_aside(path, "newer", str(newer))
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            said = set_aside(path, "corrupt", str(error))
        return cls(path, _opened(path)), said

    def is_in_place(self) -> bool:
        """Return whether the file that is open is still the one at its path: what else is written would be lost."""
        try:
            return self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Fold the write-ahead log into the file and let go of it.

        The log is folded in by a statement first: closing would do it too, but with the interpreter's lock held, and a
        disk that hangs then would stop every thread.
        """
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with suppress(sqlite3.Error):
            self._connection.close()

    def remembered(self, boot_id: str) -> Remembered:
        """Return what is known from before. Raises: msgspec.MsgspecError for a row no journal wrote."""
        return remembered_in(self._connection, boot_id)

    # ---- writing

    def write(self, changes: Changes, boot_id: str) -> None:
        """Write all of `changes` or nothing, and have it on the disk when this returns."""
        with self._transaction() as write:
            write.executemany(
                "INSERT INTO events (time, kind, name, severity, gpu, uuid, state, boot_id, evidence, drill)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (_event_row(event) for event in changes.events),
            )
            gone = [(uuid,) for uuid, row in changes.inventory.items() if row is None]
            write.executemany("DELETE FROM inventory WHERE uuid = ?", gone)
            write.executemany("DELETE FROM counters WHERE uuid = ?", gone)
            write.executemany("DELETE FROM baselines WHERE uuid = ?", gone)
            write.executemany(_PUT_INVENTORY, _inventory_rows(changes.inventory.values()))
            write.executemany(
                "INSERT OR REPLACE INTO counters (boot_id, family, uuid, name, label, total, last)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((boot_id, *msgspec.structs.astuple(row)) for row in changes.counters.values()),
            )
            write.executemany(
                "INSERT OR REPLACE INTO baselines (uuid, figure, history) VALUES (?, ?, ?)",
                ((row.uuid, row.figure, _text(row.history)) for row in changes.baselines.values()),
            )
            if changes.incidents is not None:
                write.execute("DELETE FROM incidents")
                write.executemany(
                    "INSERT INTO incidents (kind, uuid, latch) VALUES (?, ?, ?)",
                    ((*key, _text(latch_row(incident))) for key, incident in changes.incidents.items()),
                )
            if changes.cursor is not None:
                write.execute(
                    "INSERT OR REPLACE INTO cursor (only, boot_id, sequence, log) VALUES (1, ?, ?, ?)",
                    msgspec.structs.astuple(changes.cursor),
                )
            if changes.remedy is not None:
                write.execute(
                    "INSERT OR REPLACE INTO remedy (only, boot_id, state) VALUES (1, ?, ?)",
                    (boot_id, _text(changes.remedy)),
                )
            now = time.time()
            write.executemany("UPDATE requests SET taken = ? WHERE id = ?", ((now, taken) for taken in changes.taken))

    def tidy(self, boot_id: str, now: float, *, keep_events: int = KEEP_EVENTS) -> bool:
        """Drop history that is too old or too much, and counters of other boots; return whether more is left."""
        with self._transaction() as write:
            found = write.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()
            newest = int(found[0])
            dropped = write.execute(
                "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE time < ? OR id <= ? ORDER BY id LIMIT ?)",
                (now - KEEP_SECONDS, newest - keep_events, _DELETE_AT_ONCE),
            ).rowcount
            write.execute("DELETE FROM requests WHERE taken < ?", (now - KEEP_SECONDS,))
            write.execute("DELETE FROM counters WHERE boot_id != ?", (boot_id,))
        return dropped == _DELETE_AT_ONCE

    def size_bytes(self) -> int:
        """Return what the journal takes on the disk, its write-ahead log included."""
        total = 0
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                total += self.path.with_name(self.path.name + suffix).stat().st_size
        return total

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # a failed write may have ended the transaction already
                self._connection.execute("ROLLBACK")
            raise


class _NewerError(Exception):
    """The file is of a schema version this release does not know."""


def _opened(path: Path) -> sqlite3.Connection:
    """Return a connection to a journal of this schema version.

    Raises: _NewerError, and sqlite3.Error where `is_damage` tells a damaged file from a disk that fails.
    """
    _make(path)
    found = _examined(path)
    connection = connect(path, "rw")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_WAL_BYTES}")
        if found < VERSION:
            migrate(connection, found)
    except BaseException:
        connection.close()
        raise
    return connection


def _examined(path: Path) -> int:
    """Return the schema version of a sound file; looks without writing, so that one to set aside stays as it was."""
    connection = connect(path, "ro")
    try:
        found = version_of(connection)
        if found > VERSION:
            raise _NewerError(f"schema {found}, this version knows {VERSION}")
        (problem,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if problem != "ok":
            raise _damage(problem)
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if found == 0 and tables:
            raise _damage("not a journal of gpuwarden")
        return found
    finally:
        connection.close()


def _damage(text: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(text)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _make(path: Path) -> None:
    """Make the file where there is none, so that it and what SQLite puts beside it have our mode from the start."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    except FileExistsError:
        return
    try:
        os.fchmod(descriptor, _FILE_MODE)
    finally:
        os.close(descriptor)


def set_aside(path: Path, why: str, detail: str) -> str:
    """Rename the journal and what belongs to it, so that nothing of it is overwritten; return what to say of it."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    name = f"{path.name}.{why}-{stamp}"
    number = 1
    while path.with_name(name).exists():
        number += 1
        name = f"{path.name}.{why}-{stamp}-{number}"
    for suffix in ("-wal", "-shm", ""):  # the file itself last: a crash in between leaves a journal to set aside
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(path.with_name(name + suffix))
    structlog.get_logger().error("journal.set_aside", path=str(path.with_name(name)), detail=detail)
    return f"the journal was set aside as {name}: {detail}"


_PUT_INVENTORY = """
    INSERT INTO inventory (uuid, identity, gpu, first_seen, last_seen, boot_id) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (uuid) DO UPDATE SET
        identity = excluded.identity, gpu = excluded.gpu, first_seen = excluded.first_seen,
        boot_id = CASE WHEN excluded.last_seen > last_seen THEN excluded.boot_id ELSE boot_id END,
        last_seen = excluded.last_seen
"""


def _event_row(event: Event) -> tuple[object, ...]:
    return (
        event.time,
        event.kind,
        event.name,
        event.severity,
        event.gpu,
        event.uuid,
        event.state,
        event.boot_id,
        _text(event.evidence),
        event.drill,
    )


def _inventory_rows(rows: Iterable[InventoryRow | None]) -> Iterator[tuple[object, ...]]:
    for row in rows:
        if row is not None:
            yield (row.identity.uuid, _text(row.identity), row.index, row.first_seen, row.last_seen, row.boot_id)


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode("utf-8")
