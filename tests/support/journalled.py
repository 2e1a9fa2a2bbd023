"""A node whose steps are journalled, and a way to wait for the writer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from gpuwarden.engine import advance
from gpuwarden.journal import Journal, JournalStatus, Remembered
from gpuwarden.model.finding import Event
from gpuwarden.model.observation import AnyObservation, KmsgCursor
from support.story import BOOT, Story


class Journalled(Story):
    """A story in which each step with events is committed, as the daemon does."""

    def __init__(self, journal: Journal, remembered: Remembered, boot: str = BOOT, at: float = 1000.0) -> None:
        super().__init__(boot=boot, at=at)
        self.journal = journal
        self.take(remembered.restored(self.at))

    def take(self, observation: AnyObservation) -> None:
        before, step = self.node, advance(self.node, observation)
        self.node = step.state
        self.events += step.events
        if step.events or step.state.gpus.keys() != before.gpus.keys():
            self.journal.commit(step.events, before, step.state, None)

    def stop(self, cursor: KmsgCursor | None = None) -> None:
        """Commit what a clean stop commits."""
        self.journal.commit((), self.node, self.node, cursor)


async def until(journal: Journal, holds: Callable[[JournalStatus], bool], seconds: float = 10.0) -> JournalStatus:
    """Return the journal's status once something holds of it."""
    end = time.monotonic() + seconds
    while not holds(status := journal.status()):
        assert time.monotonic() < end, status
        await asyncio.sleep(0.01)
    return status


async def written(journal: Journal) -> JournalStatus:
    """Wait until the journal is at rest with everything written."""
    return await until(journal, lambda status: status.writable and not status.waiting)


def event(number: int = 0, **fields: object) -> Event:
    """Return one line of history."""
    plain = {"kind": "incident", "name": "xid.xid_79", "severity": "critical", "gpu": 0, "uuid": "GPU-0"}
    return Event(**{**plain, "state": "opened", "time": 1_790_000_000.0 + number, **fields})  # type: ignore[arg-type]


@asynccontextmanager
async def opened(state_dir: Path, boot: str = BOOT) -> AsyncIterator[tuple[Journal, Remembered]]:
    """Open the journal of `state_dir`, and close it in the end."""
    journal, remembered = Journal.open(state_dir, boot, retry_seconds=0.05)
    try:
        yield journal, remembered
    finally:
        await journal.close(5.0)
