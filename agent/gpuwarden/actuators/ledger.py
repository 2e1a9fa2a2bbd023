"""The actuator's own memory: every intent that was begun, on the disk before its effect, and what it came to.

An id that is here is never begun again: it is answered from here. One that was begun and has no outcome, by a process
that is gone, is EFFECT_UNKNOWN for good. The rate limits are counted from the same rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from gpuwarden.model.case import ActionKind, Intent, Outcome
from gpuwarden.model.stamp import Stamp

VERSION = 1
DAY_SECONDS = 86_400.0
_KEPT_SECONDS = 90 * DAY_SECONDS
_MOST_ROWS = 20_000
_CRASHED = "the actuator ended before it knew what became of this"
_SCHEMA = """
CREATE TABLE intents (
    id TEXT PRIMARY KEY, digest BLOB NOT NULL, action TEXT NOT NULL, bdf TEXT NOT NULL, asked TEXT NOT NULL,
    boot_id TEXT NOT NULL, begun_boottime REAL NOT NULL, begun_wall REAL NOT NULL, outcome TEXT, detail TEXT
) STRICT;
CREATE INDEX by_action ON intents (action, bdf);
"""


class LedgerError(Exception):
    """The ledger cannot be read or written: nothing may be begun."""


class Record(NamedTuple):
    """An intent that was begun. `outcome` None: it is under way, or whoever knew is gone."""

    digest: bytes
    outcome: Outcome | None
    detail: str


def digest_of(intent: Intent) -> bytes:
    """Return what tells two intents under one id apart."""
    return hashlib.sha256(msgspec.msgpack.encode(intent)).digest()


class Ledger:
    """The file, opened for this process. To be used by one thread only."""

    def __init__(self, path: Path) -> None:
        """Open or make the ledger; what another process left begun becomes EFFECT_UNKNOWN. Raises: LedgerError."""
        with _translated(path):
            self._file = sqlite3.connect(path, timeout=2.0, isolation_level=None)
            os.chmod(path, 0o600)  # noqa: PTH101 - a name in a directory that is ours alone
            self._file.execute("PRAGMA journal_mode = DELETE")
            self._file.execute("PRAGMA synchronous = EXTRA")
            (version,) = self._file.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._file.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
            elif version != VERSION:
                raise LedgerError(f"{path} is of version {version}, this is {VERSION}")
            unknown = (Outcome.EFFECT_UNKNOWN.value, _CRASHED)
            self._file.execute("UPDATE intents SET outcome = ?, detail = ? WHERE outcome IS NULL", unknown)
        self._path = path

    def find(self, intent_id: str) -> Record | None:
        """Return what is known of an intent. Raises: LedgerError."""
        with _translated(self._path):
            row = self._file.execute(
                "SELECT digest, outcome, detail FROM intents WHERE id = ?", (intent_id,)
            ).fetchone()
        return None if row is None else Record(row[0], Outcome(row[1]) if row[1] is not None else None, row[2] or "")

    def begin(self, intent: Intent, now: Stamp) -> None:
        """Write down that an intent is begun; on the disk when this returns.

        Raises: LedgerError, also for an id that is there already: it was begun, and that is all there is to it.
        """
        row = (
            intent.id, digest_of(intent), intent.action.value, intent.bdf,
            msgspec.json.encode(intent).decode(), now.boot_id, now.boottime, now.wall,
        )  # fmt: skip
        with _translated(self._path):
            self._file.execute("INSERT INTO intents VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)", row)

    def end(self, intent_id: str, outcome: Outcome, detail: str, now: Stamp) -> None:
        """Write down what became of an intent, and drop rows of long ago. Raises: LedgerError."""
        with _translated(self._path):
            self._file.execute(
                "UPDATE intents SET outcome = ?, detail = ? WHERE id = ?", (outcome.value, detail, intent_id)
            )
            self._file.execute(
                "DELETE FROM intents WHERE outcome IS NOT NULL AND boot_id != ? AND (begun_wall < ? OR rowid <= "
                "(SELECT max(rowid) FROM intents) - ?)",
                (now.boot_id, now.wall - _KEPT_SECONDS, _MOST_ROWS),
            )

    def begun_within_a_day(self, actions: Iterable[ActionKind], bdf: str | None, now: Stamp) -> int:
        """Return how many intents of these actions were begun within a day, on one GPU or (None) all of them.

        By either clock: an age that a clock cannot prove is no age. REFUSED ones changed nothing and do not count.
        Raises: LedgerError.
        """
        names = msgspec.json.encode([action.value for action in actions]).decode()
        with _translated(self._path):
            rows = self._file.execute(
                "SELECT boot_id, begun_boottime, begun_wall FROM intents WHERE outcome IS NOT ? "
                "AND action IN (SELECT value FROM json_each(?)) AND (? IS NULL OR bdf = ?)",
                (Outcome.REFUSED.value, names, bdf, bdf),
            ).fetchall()
        return sum(_recent(Stamp(*row), now) for row in rows)


def _recent(begun: Stamp, now: Stamp) -> bool:
    if begun.boot_id == now.boot_id:
        return now.boottime - begun.boottime < DAY_SECONDS
    return now.wall - begun.wall < DAY_SECONDS  # also one from the future


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, ValueError) as error:
        raise LedgerError(f"{path}: {error}") from None
