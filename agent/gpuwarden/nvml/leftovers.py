"""Workers that outlive their daemon: who they are, in two files of the runtime directory, and whether they still live.

A process in state D is deaf to SIGKILL. It is then abandoned: who it is stands in `worker.abandoned`, so that neither
this daemon nor the next one starts another beside it while it lives. A daemon that was killed could write nothing:
`worker.running`, written at each start, tells the next one whom to look for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import msgspec

ABANDONED_NAME = "worker.abandoned"
RUNNING_NAME = "worker.running"
_PATIENCE_SECONDS = 1.0
_LOOK_SECONDS = 0.02


class Abandoned(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `worker.abandoned`, version 1. `start_ticks` tells a process from a later one of the same pid."""

    version: int
    pid: int
    start_ticks: int
    wchan: str
    since: float  # wall


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `worker.running`, version 1: a worker and the process that started it, with their start ticks."""

    version: int
    pid: int
    start_ticks: int
    parent_pid: int
    parent_start_ticks: int


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when none of its threads is left.

    A killed process of which one thread sits in state D is a zombie by its first thread, and still holds the device.
    """
    states, ticks = set(), None
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            state, *fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            states.add(state)
            ticks = int(fields[18]) if stat.parent.name == str(pid) else ticks
    return ticks if states - {"Z", "X"} else None


def is_alive(found: Abandoned) -> bool:
    """Return whether that very process still has a thread."""
    return start_ticks(found.pid) == found.start_ticks


def read_abandoned(runtime_dir: Path) -> Abandoned | None:
    """Return the worker that an earlier run had to leave behind, if it lives; the file of a dead one is removed."""
    path = runtime_dir / ABANDONED_NAME
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Abandoned)
    except (OSError, msgspec.MsgspecError):
        return None
    if is_alive(found):
        return found
    path.unlink(missing_ok=True)
    return None


def write_abandoned(runtime_dir: Path, pid: int) -> Abandoned | None:
    """Write down a worker that SIGKILL does not end. None when it has ended after all."""
    ticks = start_ticks(pid)
    if ticks is None:
        return None
    found = Abandoned(version=1, pid=pid, start_ticks=ticks, wchan=_wchan(pid), since=time.time())
    with contextlib.suppress(OSError):  # a full or read-only /run keeps the next run from knowing, not this one
        (runtime_dir / ABANDONED_NAME).write_bytes(msgspec.json.encode(found))
    return found


def write_running(runtime_dir: Path, pid: int) -> None:
    """Write down a worker that was just started, and that it is ours."""
    ticks, own = start_ticks(pid), start_ticks(os.getpid())
    if ticks is None or own is None:
        return
    note = Running(version=1, pid=pid, start_ticks=ticks, parent_pid=os.getpid(), parent_start_ticks=own)
    with contextlib.suppress(OSError):  # as above
        (runtime_dir / RUNNING_NAME).write_bytes(msgspec.json.encode(note))


async def end_orphan(runtime_dir: Path) -> Abandoned | None:
    """End the worker of a daemon that was killed. Return it, written down as abandoned, where SIGKILL does not.

    The worker of a parent that lives is left alone: it is somebody's.
    """
    path = runtime_dir / RUNNING_NAME
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None
    if start_ticks(found.parent_pid) == found.parent_start_ticks:
        return None
    for number in (None, signal.SIGKILL):  # it has had its end of file and is most likely on its way out
        deadline = time.monotonic() + _PATIENCE_SECONDS
        if number is not None:
            with contextlib.suppress(OSError):
                os.kill(found.pid, number)
        while time.monotonic() < deadline:
            if start_ticks(found.pid) != found.start_ticks:
                path.unlink(missing_ok=True)
                return None
            await asyncio.sleep(_LOOK_SECONDS)
    return write_abandoned(runtime_dir, found.pid)


def _wchan(pid: int) -> str:
    """Return the kernel functions its threads sleep in."""
    names = set()
    for task in Path(f"/proc/{pid}/task").glob("*/wchan"):
        with contextlib.suppress(OSError):
            names.add(task.read_text(encoding="ascii", errors="replace").strip())
    return ",".join(sorted(names - {"", "0"}))
