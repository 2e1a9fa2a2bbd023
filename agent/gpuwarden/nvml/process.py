"""One worker process from the parent's side: its start, its pipes, its end, and what is left when it cannot end.

A process in state D is deaf to SIGKILL. It is then abandoned: its pipes are closed, and who it is stands in
`worker.abandoned`, so that neither this daemon nor the next one starts another beside it while it lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec
import structlog

from gpuwarden.nvml.wire import MAX_FRAME_BYTES

ABANDONED_NAME = "worker.abandoned"
_EOF_SECONDS = 0.3
_TERM_SECONDS = 2.0
_KILL_SECONDS = 1.0
_LOOK_SECONDS = 0.02
_MAX_LINE_BYTES = 4096


class Abandoned(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `worker.abandoned`, version 1. `start_ticks` tells a process from a later one of the same pid."""

    version: int
    pid: int
    start_ticks: int
    wchan: str
    since: float  # wall


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


def _wchan(pid: int) -> str:
    """Return the kernel functions its threads sleep in."""
    names = set()
    for task in Path(f"/proc/{pid}/task").glob("*/wchan"):
        with contextlib.suppress(OSError):
            names.add(task.read_text(encoding="ascii", errors="replace").strip())
    return ",".join(sorted(names - {"", "0"}))


class WorkerProcess:
    """A running worker. `frames` is its stdout; what it says on stderr goes to our log."""

    def __init__(self, process: subprocess.Popen[bytes], frames: asyncio.StreamReader) -> None:
        self.pid = process.pid
        self.frames = frames
        self._process = process
        self._relay: asyncio.Task[None] | None = None
        self._transports: list[asyncio.BaseTransport] = []

    @classmethod
    async def spawn(cls, module: str, environ: Mapping[str, str]) -> WorkerProcess:
        """Start a worker. Raises: OSError when no process can be started."""
        process = subprocess.Popen(  # noqa: ASYNC220 - vfork and exec of ourselves; asyncio's own would wait in a thread
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environ},
            start_new_session=True,
        )
        loop = asyncio.get_running_loop()
        frames = asyncio.StreamReader(limit=2 * MAX_FRAME_BYTES)
        errors = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
        worker = cls(process, frames)
        for reader, pipe in ((frames, process.stdout), (errors, process.stderr)):
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await loop.connect_read_pipe(partial(_same, protocol), pipe)
            worker._transports.append(transport)
        worker._relay = asyncio.create_task(_relay(errors, process.pid), name="nvml-worker-stderr")
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        return worker

    def send(self, frame: bytes) -> None:
        """Send one small frame; a worker that does not read or is gone misses it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            os.write(self._process.stdin.fileno(), frame)

    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process lives."""
        return self._process.poll()

    async def ended(self, seconds: float) -> bool:
        """Return whether the process is gone, waiting for it at most so long."""
        deadline = time.monotonic() + seconds
        while self._process.poll() is None:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True

    async def end(self, seconds: float = _EOF_SECONDS + _TERM_SECONDS + _KILL_SECONDS) -> bool:
        """End the worker: end of file, SIGTERM, SIGKILL, within so many seconds. False: it lives on, deaf.

        In any case its pipes are closed, so that nothing of ours waits for it.
        """
        share = seconds / (_EOF_SECONDS + _TERM_SECONDS + _KILL_SECONDS)
        try:
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
            for number, patience in (
                (None, _EOF_SECONDS),
                (signal.SIGTERM, _TERM_SECONDS),
                (signal.SIGKILL, _KILL_SECONDS),
            ):
                if number is not None:
                    with contextlib.suppress(ProcessLookupError):
                        self._process.send_signal(number)
                if await self.ended(patience * share):
                    return True
            return False
        finally:
            self._close()

    def _close(self) -> None:
        for transport in self._transports:
            transport.close()
        if self._relay is not None:
            self._relay.cancel()


def _same(protocol: asyncio.StreamReaderProtocol) -> asyncio.StreamReaderProtocol:
    return protocol


async def _relay(errors: asyncio.StreamReader, pid: int) -> None:
    """Pass on what a worker or its library writes to stderr, line by line; overlong lines are cut."""
    log = structlog.get_logger()
    while True:
        try:
            line = await errors.readline()
        except ValueError:
            continue
        if not line:
            return
        log.warning("nvml_worker.said", pid=pid, line=line.decode(errors="replace").rstrip())
