"""What operators ask for, as rows of the journal: valid while the daemon is down, allowed by file permission."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from gpuwarden.errors import JournalError
from gpuwarden.journal.schema import FILE_NAME, VERSION, connect, version_of


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `uid` is who made it, `time` when (Unix time)."""

    id: int
    verb: str
    payload: dict[str, Any]
    time: float
    uid: int


def submit_request(state_dir: Path, verb: str, payload: Mapping[str, Any]) -> int:
    """Write a request into the journal of `state_dir` and return its number; durable when this returns.

    Raises: JournalError where there is no journal (the daemon never ran here), this user may not write it, it is of
    another schema version, or its disk is full.
    """
    path = state_dir / FILE_NAME
    if not path.exists():
        raise JournalError(f"{path}: there is no journal; has the daemon ever run with this state directory?")
    try:
        with closing(connect(path, "rw")) as connection:
            found = version_of(connection)
            if found != VERSION:
                raise JournalError(f"{path}: schema {found}, this version knows {VERSION}")
            connection.execute("PRAGMA synchronous = FULL")
            cursor = connection.execute(
                "INSERT INTO requests (time, uid, verb, payload) VALUES (?, ?, ?, ?)",
                (time.time(), os.geteuid(), verb, msgspec.json.encode(payload).decode("utf-8")),
            )
            return int(cursor.lastrowid or 0)
    except (sqlite3.Error, OSError) as error:
        raise JournalError(f"{path}: {error}") from None


def waiting_in(connection: sqlite3.Connection) -> list[Request]:
    """Return the requests that nobody took yet, in the order they were made."""
    return [
        Request(id=number, verb=verb, payload=msgspec.json.decode(payload, type=dict[str, Any]), time=made, uid=uid)
        for number, verb, payload, made, uid in connection.execute(
            "SELECT id, verb, payload, time, uid FROM requests WHERE taken IS NULL ORDER BY id"
        )
    ]
