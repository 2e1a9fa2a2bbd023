"""Reading the journal beside its writer: for the API while the daemon runs, for the command line while it does not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from gpuwarden.errors import JournalError
from gpuwarden.journal.rows import Remembered
from gpuwarden.journal.schema import FILE_NAME, VERSION, connect, version_of
from gpuwarden.model.case import Remedy
from gpuwarden.model.finding import Event, Evidence
from gpuwarden.model.gpu import GpuIdentity
from gpuwarden.model.observation import BaselineRow, CounterRow, InventoryRow, KmsgCursor, LatchRow
from gpuwarden.model.speed import Sketch


def read_events(state_dir: Path, kind: str | None, since: float | None, limit: int) -> list[Event]:
    """Return the newest `limit` events of a journal, oldest first; `since` is Unix time.

    Raises: JournalError where there is no journal, it is of a newer schema, or it cannot be read.
    """
    with reading(state_dir / FILE_NAME) as connection:
        return events_in(connection, kind, since, limit)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection that reads the journal at `path`. Raises: JournalError with why it cannot be read."""
    if not path.exists():
        raise JournalError(f"{path}: there is no journal")
    try:
        with closing(_reader(path)) as connection:
            yield connection
    except (sqlite3.Error, OSError, msgspec.MsgspecError) as error:
        raise JournalError(f"{path}: {error}") from None


def _reader(path: Path) -> sqlite3.Connection:
    """Return a read-only connection, also where this user may not write the files SQLite keeps beside the journal."""
    connection = connect(path, "ro")
    try:
        found = version_of(connection)
    except sqlite3.OperationalError:
        connection.close()
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            raise  # it holds commits that an immutable look would miss
        connection = connect(path, "ro", immutable=True)
        found = version_of(connection)
    if found > VERSION:
        connection.close()
        raise JournalError(f"{path}: schema {found}, this version knows {VERSION}")
    return connection


def events_in(connection: sqlite3.Connection, kind: str | None, since: float | None, limit: int) -> list[Event]:
    """Return the newest `limit` events, oldest first."""
    rows = connection.execute(
        "SELECT kind, name, severity, gpu, uuid, state, time, boot_id, evidence, drill FROM events"
        " WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR time >= ?2) ORDER BY id DESC LIMIT ?3",
        (kind, since, limit),
    ).fetchall()
    return [
        Event(
            kind=kind_,
            name=name,
            severity=severity,
            gpu=gpu,
            uuid=uuid,
            state=state,
            time=time,
            boot_id=boot_id,
            evidence=msgspec.json.decode(evidence, type=Evidence),
            drill=bool(drill),
        )
        for kind_, name, severity, gpu, uuid, state, time, boot_id, evidence, drill in reversed(rows)
    ]


def remembered_in(connection: sqlite3.Connection, boot_id: str) -> Remembered:
    """Return what is known from before: counters of `boot_id` only.

    Raises: msgspec.MsgspecError for a row that this journal cannot have written.
    """
    rows = connection.execute
    return Remembered(
        inventory=tuple(
            InventoryRow(
                identity=msgspec.json.decode(identity, type=GpuIdentity),
                index=gpu,
                first_seen=first_seen,
                last_seen=last_seen,
                boot_id=boot,
            )
            for identity, gpu, first_seen, last_seen, boot in rows(
                "SELECT identity, gpu, first_seen, last_seen, boot_id FROM inventory ORDER BY gpu, uuid"
            )
        ),
        latches=tuple(
            msgspec.json.decode(latch, type=LatchRow)
            for (latch,) in rows("SELECT latch FROM incidents ORDER BY kind, uuid")
        ),
        counters=tuple(
            CounterRow(family=family, uuid=uuid, name=name, label=label, total=total, last=last)
            for family, uuid, name, label, total, last in rows(
                "SELECT family, uuid, name, label, total, last FROM counters WHERE boot_id = ?"
                " ORDER BY family, uuid, name, label",
                (boot_id,),
            )
        ),
        baselines=tuple(_baselines_in(connection)),
        cursor=next(
            (
                KmsgCursor(boot_id=boot, sequence=sequence, log=log)
                for boot, sequence, log in rows("SELECT boot_id, sequence, log FROM cursor")
            ),
            None,
        ),
        remedy=_remedy_in(connection),
        earlier_boot=bool(rows("SELECT 1 FROM events WHERE boot_id != ? LIMIT 1", (boot_id,)).fetchall()),
    )


def _baselines_in(connection: sqlite3.Connection) -> Iterator[BaselineRow]:
    """Yield what each GPU usually reaches; a file of an older schema, which cannot be written, has none."""
    if version_of(connection) < 3:
        return
    for uuid, figure, history in connection.execute(
        "SELECT uuid, figure, history FROM baselines ORDER BY uuid, figure"
    ):
        yield BaselineRow(uuid=uuid, figure=figure, history=msgspec.json.decode(history, type=Sketch))


def _remedy_in(connection: sqlite3.Connection) -> Remedy:
    """Return the cases as they stood; a file of the first schema, which cannot be written, has none."""
    if version_of(connection) < 2:
        return Remedy()
    found = connection.execute("SELECT state FROM remedy").fetchone()
    return Remedy() if found is None else msgspec.json.decode(found[0], type=Remedy)
