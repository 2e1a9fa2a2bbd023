"""Where raw kernel-log records come from: the kernel's ring, a FIFO, or a regular file. Nothing here judges a record.

A source hands out records in slices that take a few milliseconds, so that the loop stays on time in a flood. The ring
and a FIFO answer at once or not at all; a regular file may lie on a disk that hangs, so a thread of its own reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from gpuwarden.model.kernel_log import sequence_of

SLICE_RECORDS = 256
SLICE_SECONDS = 0.004
_RING = os.makedev(1, 11)  # /dev/kmsg, by whatever name. Source: Documentation/admin-guide/devices.txt
_BUFFER = 2048  # a small buffer is read a quarter faster; the few records it is too small for are asked for again
_LARGEST_BUFFER = 1 << 20
_BLOCK = 16 * 1024
_LONGEST_LINE = 64 * 1024
_FILE_POLL_SECONDS = 0.1
_BLOCKS_AHEAD = 8


class Slice(msgspec.Struct, frozen=True):
    """Some records, oldest first.

    `lost`: records overwritten before they could be read. `at_end`: nothing newer exists now. `restarted`: what
    follows is another log under the same name (truncated, replaced), whose numbers start anew.
    """

    records: list[bytes]
    lost: int = 0
    at_end: bool = False
    restarted: bool = False


class Source(Protocol):
    """One open log. `log` names it in the cursor; `of_kernel` is true only for the kernel's own ring.

    `endless`: in a flood its end may never be reached; a file's always is.
    """

    log: str
    of_kernel: bool
    endless: bool

    def take(self) -> Slice:
        """Return what is there now, at most a slice of it. Raises: OSError when the log cannot be read any more."""

    async def wait(self) -> None:
        """Return when there may be something to take."""

    def close(self) -> None:
        """Give the log back; never blocks."""


def open_source(path: Path, after: Callable[[str], int | None]) -> Source:
    """Return the log at `path`, opened. `after` tells the last number taken before from the log of that name, if any.

    Raises: OSError when it cannot be opened or is no kind of log.
    """
    mode = path.stat()
    if stat.S_ISCHR(mode.st_mode):
        if mode.st_rdev != _RING:
            raise OSError(f"{path} is a character device, but not the kernel's log")
        return RingSource(path, after(RingSource.log))
    if stat.S_ISFIFO(mode.st_mode):
        return FifoSource(path)
    if stat.S_ISREG(mode.st_mode):
        return FileSource(path, after(str(path)))
    raise OSError(f"{path} is neither a character device nor a FIFO nor a regular file")


class _Readable:
    """Waiting for a descriptor. The loop looks at it only meanwhile: data left unread wakes nobody twice."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()

    async def wait(self) -> None:
        event = asyncio.Event()
        self._loop.add_reader(self._descriptor, event.set)
        try:
            await event.wait()
        finally:
            self._loop.remove_reader(self._descriptor)


class RingSource:
    """The kernel's ring buffer, one record a read, from the oldest it still holds.

    A reader that was overtaken is told so once (EPIPE) and goes on at the oldest record; the gap in the sequence
    numbers is the loss. Source: Documentation/ABI/testing/dev-kmsg.
    """

    log = ""
    of_kernel = True
    endless = True

    def __init__(self, path: Path, after: int | None) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._readable = _Readable(self._descriptor)
        self._before_gap = after  # the ring may already have overwritten what followed the cursor
        self._last: bytes | None = None

    def take(self) -> Slice:
        records: list[bytes] = []
        lost = 0
        size = _BUFFER
        until = time.monotonic() + SLICE_SECONDS
        for _ in range(SLICE_RECORDS):
            try:
                raw = os.read(self._descriptor, size)
            except BlockingIOError:
                return Slice(records, lost, at_end=True)
            except BrokenPipeError:
                self._before_gap = sequence_of(self._last) if self._last is not None else self._before_gap
                continue
            except OSError as error:
                if error.errno != errno.EINVAL or size >= _LARGEST_BUFFER:
                    raise
                size *= 8  # the record is kept until it fits
                continue
            if self._before_gap is not None:
                lost += max(0, (sequence_of(raw) or 0) - self._before_gap - 1)
                self._before_gap = None
            self._last = raw
            records.append(raw)
            if not len(records) & 31 and time.monotonic() > until:
                break
        return Slice(records, lost)

    async def wait(self) -> None:
        await self._readable.wait()

    def close(self) -> None:
        os.close(self._descriptor)


class _Lines:
    """Puts records together from a stream: a line is a record, lines that begin with a space belong to the last one."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        return [line for line in lines if line and line[0] != 0x20]

    def forget(self) -> None:
        self._rest = b""


class FifoSource:
    """A FIFO, opened for reading and writing, so that the end of its last writer is not an end of file."""

    of_kernel = False
    endless = True

    def __init__(self, path: Path) -> None:
        self.log = str(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._readable = _Readable(self._descriptor)
        self._lines = _Lines()

    def take(self) -> Slice:
        try:
            return Slice(self._lines.feed(os.read(self._descriptor, _BLOCK)))
        except BlockingIOError:
            return Slice([], at_end=True)

    async def wait(self) -> None:
        await self._readable.wait()

    def close(self) -> None:
        os.close(self._descriptor)


class _Block(msgspec.Struct, frozen=True):
    """What the file's thread hands over: bytes, the file's end, a new file in its place, or why it gave up."""

    data: bytes = b""
    at_end: bool = False
    restarted: bool = False
    error: OSError | None = None


class FileSource:
    """A regular file, read from its start and then followed over truncation and replacement by a thread of its own."""

    of_kernel = False
    endless = False

    def __init__(self, path: Path, after: int | None) -> None:
        self.log = str(path)
        self._path = path
        self._after = after
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._blocks: deque[_Block] = deque()
        self._room = threading.Semaphore(_BLOCKS_AHEAD)
        self._stop = threading.Event()
        self._lines = _Lines()
        threading.Thread(target=self._run, name="kmsg-file", daemon=True).start()

    # the loop's side

    def take(self) -> Slice:
        if not self._blocks:
            self._event.clear()
            return Slice([], at_end=False)
        block = self._blocks.popleft()
        self._room.release()
        if block.error is not None:
            raise block.error
        if block.restarted:
            self._lines.forget()
        return Slice(self._lines.feed(block.data), at_end=block.at_end, restarted=block.restarted)

    async def wait(self) -> None:
        if not self._blocks:
            self._event.clear()
            await self._event.wait()

    def close(self) -> None:
        self._stop.set()
        self._room.release()

    # the thread's side

    def _run(self) -> None:
        try:
            self._follow()
        except OSError as error:
            self._hand_over(_Block(error=error))

    def _follow(self) -> None:
        file = self._path.open("rb", buffering=0)
        try:
            if self._after is not None and (_last_sequence(file.fileno()) or 0) < self._after:
                self._hand_over(_Block(restarted=True))  # it held the cursor's record once and does not now
            ended = False
            while not self._stop.is_set():
                if data := file.read(_BLOCK):
                    ended = False
                    self._hand_over(_Block(data))
                    continue
                if not ended:
                    ended = True
                    self._hand_over(_Block(at_end=True))
                self._stop.wait(_FILE_POLL_SECONDS)
                if os.fstat(file.fileno()).st_size < file.tell():
                    file.seek(0)
                    self._hand_over(_Block(restarted=True))
                elif self._replaced(file.fileno()):
                    while data := file.read(_BLOCK):
                        self._hand_over(_Block(data))
                    file.close()
                    file = self._path.open("rb", buffering=0)
                    self._hand_over(_Block(restarted=True))
        finally:
            file.close()

    def _replaced(self, descriptor: int) -> bool:
        """Return whether another file has the name now. While nothing has it, the old one stays open."""
        try:
            new = self._path.stat()
        except FileNotFoundError:
            return False
        return not os.path.samestat(new, os.fstat(descriptor))

    def _hand_over(self, block: _Block) -> None:
        self._room.acquire()
        if not self._stop.is_set():
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._receive, block)

    def _receive(self, block: _Block) -> None:
        self._blocks.append(block)
        self._event.set()


def _last_sequence(descriptor: int) -> int | None:
    """Return the sequence number of the last whole record of a file."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _LONGEST_LINE, max(0, size - _LONGEST_LINE))
    for line in reversed(tail.split(b"\n")[:-1]):
        if (sequence := sequence_of(line)) is not None:
            return sequence
    return None
