"""One worker process from the parent's side: its start, its pipes, its end."""

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

import structlog

from gpuwarden.nvml.wire import MAX_FRAME_BYTES

_EOF_SECONDS = 0.3
_TERM_SECONDS = 2.0
_KILL_SECONDS = 1.0
_LOOK_SECONDS = 0.02
_MAX_LINE_BYTES = 4096


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
