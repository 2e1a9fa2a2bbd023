"""Whose the processes on the GPUs are: pids of NVML's lists in, owners out, from /proc and the user database.

/proc and the user database can hang, so each has a thread of its own with a deadline; who is late is told as absent.
"""

from __future__ import annotations

import asyncio
import pwd
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from gpuwarden.collectors.procfs import ProcessFacts, process, why_blind
from gpuwarden.model.cgroup import owner_of
from gpuwarden.model.gpu import Missing
from gpuwarden.model.observation import AnyObservation, GpuProcesses, OwnersSeen, Stamp
from gpuwarden.model.workload import Owned
from gpuwarden.sidethread import BusyError, SideThread

_DEADLINE_SECONDS = 5.0
_NAMES_SECONDS = 2.0
_NAMES_KEPT = 1024
_CLOCK_GRAIN_SECONDS = 0.02  # /proc rounds the start of a process to ticks


class WorkloadReader:
    """Turns lists of processes into their owners. `heard` takes lists and never blocks; a newer one replaces an older.

    `proc` is the root of the process file system, `name_of` returns the name of a user id or raises KeyError.
    """

    def __init__(
        self,
        emit: Callable[[AnyObservation], None],
        clock: Callable[[], Stamp],
        *,
        proc: Path = Path("/proc"),
        name_of: Callable[[int], str] = lambda uid: pwd.getpwuid(uid).pw_name,
        deadline_seconds: float = _DEADLINE_SECONDS,
        names_seconds: float = _NAMES_SECONDS,
    ) -> None:
        self._emit = emit
        self._clock = clock
        self._proc = proc
        self._name_of = name_of
        self._deadline_seconds = deadline_seconds
        self._names_seconds = names_seconds
        self._waiting: dict[str, GpuProcesses] = {}
        self._news = asyncio.Event()
        self._files = SideThread("workloads", 4)
        self._users = SideThread("users", 4)
        self._names: dict[int, str] = {}
        self._late = False
        self._log = structlog.get_logger()

    def heard(self, listed: GpuProcesses) -> None:
        """Take the list of one GPU."""
        self._waiting[listed.bdf] = listed
        self._news.set()

    async def run(self) -> None:
        """Look up what was heard, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            lists, self._waiting = self._waiting, {}
            await self._look(tuple(lists.values()))

    async def _look(self, lists: tuple[GpuProcesses, ...]) -> None:
        pids = sorted({each.pid for listed in lists for each in listed.processes})
        try:
            found = await self._files.call(lambda: _facts(self._proc, pids), self._deadline_seconds)
        except (TimeoutError, BusyError):
            self._say_late(late=True)
            for listed in lists:
                self._tell(listed, (), Missing.TIMED_OUT)
            return
        self._say_late(late=False)
        if found is None:
            for listed in lists:
                self._tell(listed, (), Missing.NO_PERMISSION)
            return
        await self._learn_names({facts.uid for facts in found})
        for listed in lists:
            here = {each.pid for each in listed.processes}
            until = listed.at.boottime + _CLOCK_GRAIN_SECONDS
            owners = [
                Owned(pid=facts.pid, owner=owner_of(facts.cgroup, facts.command, self._user(facts.uid)))
                for facts in found
                if facts.pid in here and facts.started_seconds <= until  # a later one is another process
            ]
            self._tell(listed, tuple(owners), None)

    async def _learn_names(self, uids: Iterable[int]) -> None:
        """Learn the names of users not met before; a user database that is late leaves them numbers for now."""
        unknown = [uid for uid in sorted(uids) if uid not in self._names]
        if not unknown:
            return
        try:
            named = await self._users.call(lambda: _names(unknown, self._name_of), self._names_seconds)
        except (TimeoutError, BusyError):
            self._log.warning("users.not_named", uids=unknown, deadline_seconds=self._names_seconds)
            return
        if len(self._names) + len(named) > _NAMES_KEPT:
            self._names.clear()
        self._names.update(named)

    def _user(self, uid: int) -> str:
        return self._names.get(uid, str(uid))

    def _say_late(self, *, late: bool) -> None:
        if late != self._late:
            self._late = late
            self._log.warning("workloads.blocked" if late else "workloads.returned", path=str(self._proc))

    def _tell(self, listed: GpuProcesses, owners: tuple[Owned, ...], absent: Missing | None) -> None:
        self._emit(OwnersSeen(at=self._clock(), index=listed.index, bdf=listed.bdf, owners=owners, absent=absent))


def _facts(proc: Path, pids: Iterable[int]) -> list[ProcessFacts] | None:
    """Return what there is to see of some processes, None where this host's processes are not shown to us."""
    if why_blind(proc):
        return None
    return [facts for pid in pids if (facts := process(proc, pid)) is not None]


def _names(uids: Iterable[int], name_of: Callable[[int], str]) -> dict[int, str]:
    named = {}
    for uid in uids:
        try:
            named[uid] = name_of(uid)
        except KeyError:
            named[uid] = str(uid)
    return named
