"""What survives the daemon: history, inventory, open incidents, this boot's counters, the kernel-log cursor, requests.

One SQLite file with one writer thread. Nobody waits for its disk: a slow, full or hung one shows in `status()`.
"""

from __future__ import annotations

from gpuwarden.journal.journal import Journal
from gpuwarden.journal.reading import read_events
from gpuwarden.journal.requests import Request, submit_request
from gpuwarden.journal.rows import Remembered
from gpuwarden.journal.schema import FILE_NAME
from gpuwarden.journal.writer import JournalStatus

__all__ = [
    "FILE_NAME",
    "Journal",
    "JournalStatus",
    "Remembered",
    "Request",
    "read_events",
    "submit_request",
]
