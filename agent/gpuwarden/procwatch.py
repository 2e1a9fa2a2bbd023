"""What our own processes cost, read off the event loop every few seconds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import psutil

from gpuwarden.exposition.native import ProcessStats
from gpuwarden.sidethread import BusyError, SideThread

_PERIOD_SECONDS = 5.0
_DEADLINE_SECONDS = 2.0
_Read = TypeVar("_Read")


def stats_of(pid: int | None) -> ProcessStats:
    """Return CPU seconds, resident bytes, open files and start time (wall) of a process; all None for none.

    What may not be read stays None. Source: psutil, /proc.
    """
    try:
        process = psutil.Process(pid) if pid is not None else None
    except psutil.Error:
        process = None
    if process is None:
        return ProcessStats()
    with process.oneshot():
        cpu = _tried(process.cpu_times)
        memory = _tried(process.memory_info)
        return ProcessStats(
            cpu_seconds=cpu.user + cpu.system if cpu is not None else None,
            resident_bytes=memory.rss if memory is not None else None,
            open_fds=_tried(process.num_fds),
            start_time=_tried(process.create_time),
        )


def _tried(read: Callable[[], _Read]) -> _Read | None:
    try:
        return read()
    except (psutil.Error, OSError):
        return None


class ProcessWatch:
    """Keeps `stats` of a set of processes fresh. `pids` is asked each time: a replaced worker has a new one."""

    def __init__(self, pids: Callable[[], Mapping[str, int | None]]) -> None:
        self._pids = pids
        self._thread = SideThread("process-stats", 1)
        self.stats: dict[str, ProcessStats] = {}

    async def run(self) -> None:
        """Read every 5 s until cancelled. /proc of a process in state D can hang: then the last figures stay."""
        while True:
            pids = dict(self._pids())
            with contextlib.suppress(TimeoutError, BusyError):
                self.stats = await self._thread.call(partial(_all, pids), _DEADLINE_SECONDS)
            await asyncio.sleep(_PERIOD_SECONDS)


def _all(pids: Mapping[str, int | None]) -> dict[str, ProcessStats]:
    return {name: stats_of(pid) for name, pid in pids.items()}
