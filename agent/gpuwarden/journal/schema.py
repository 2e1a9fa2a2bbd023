"""The tables of the journal, one script per schema version, and how a connection to it is made.

A version is never edited once released: a change of the tables is one more script at the end.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

FILE_NAME = "journal.db"
SCHEMAS: tuple[str, ...] = (
    """
    CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        time REAL NOT NULL,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        severity TEXT NOT NULL,
        gpu INTEGER,
        uuid TEXT,
        state TEXT NOT NULL,
        boot_id TEXT NOT NULL,
        evidence TEXT NOT NULL,
        drill INTEGER NOT NULL
    );
    CREATE TABLE inventory (
        uuid TEXT PRIMARY KEY,
        identity TEXT NOT NULL,
        gpu INTEGER NOT NULL,
        first_seen REAL NOT NULL,
        last_seen REAL NOT NULL,
        boot_id TEXT NOT NULL
    );
    CREATE TABLE incidents (
        kind TEXT NOT NULL,
        uuid TEXT NOT NULL,
        latch TEXT NOT NULL,
        PRIMARY KEY (kind, uuid)
    );
    CREATE TABLE counters (
        boot_id TEXT NOT NULL,
        family TEXT NOT NULL,
        uuid TEXT NOT NULL,
        name TEXT NOT NULL,
        label TEXT NOT NULL,
        total INTEGER NOT NULL,
        last REAL NOT NULL,
        PRIMARY KEY (boot_id, family, uuid, name, label)
    );
    CREATE TABLE cursor (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        boot_id TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        log TEXT NOT NULL
    );
    CREATE TABLE requests (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time REAL NOT NULL,
        uid INTEGER NOT NULL,
        verb TEXT NOT NULL,
        payload TEXT NOT NULL,
        taken REAL
    );
    """,
    """
    CREATE TABLE remedy (only INTEGER PRIMARY KEY CHECK (only = 1), boot_id TEXT NOT NULL, state TEXT NOT NULL);
    """,
    """
    CREATE TABLE baselines (
        uuid TEXT NOT NULL,
        figure TEXT NOT NULL,
        history TEXT NOT NULL,
        PRIMARY KEY (uuid, figure)
    );
    """,
)
VERSION = len(SCHEMAS)
_BUSY_SECONDS = 2.0


def connect(path: Path, mode: str, *, immutable: bool = False) -> sqlite3.Connection:
    """Return a connection in autocommit; `mode` is SQLite's: ro or rw. Waits 2 s for another process's lock.

    Raises: sqlite3.OperationalError where the file cannot be opened.
    """
    uri = f"file:{quote(str(path))}?mode={mode}" + ("&immutable=1" if immutable else "")
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def version_of(connection: sqlite3.Connection) -> int:
    """Return the schema version of a file; 0 for a new one."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def migrate(connection: sqlite3.Connection, found: int) -> None:
    """Bring a file from schema version `found` to this one, all or nothing."""
    scripts = "".join(SCHEMAS[found:])
    connection.executescript(f"BEGIN IMMEDIATE; {scripts} PRAGMA user_version = {VERSION}; COMMIT;")
