"""Keep a source running: what raises is said once, counted, and started again with a growing pause."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gpuwarden.model.observation import AnyObservation, SourceFailed, Stamp

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_SETTLED_SECONDS = 60.0
"""A source that ran this long before it failed starts over with the shortest pause."""


async def supervised(
    name: str,
    source: Callable[[], Awaitable[None]],
    emit: Callable[[AnyObservation], None],
    clock: Callable[[], Stamp],
) -> None:
    """Run `source` until cancelled. Only the main loop is fatal; a source that raises comes back.

    A source that returns has said all it had to say and is not started again.
    """
    log = structlog.get_logger()
    pause = _FIRST_PAUSE_SECONDS
    while True:
        started = clock().boottime
        try:
            await source()
            return
        except Exception as error:  # the top of this source's task: the fault becomes an observation
            log.exception("source.failed", source=name, retry_seconds=pause)
            emit(SourceFailed(at=clock(), source=name, detail=f"{type(error).__name__}: {error}"))
        if clock().boottime - started > _SETTLED_SECONDS:
            pause = _FIRST_PAUSE_SECONDS
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
