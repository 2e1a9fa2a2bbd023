"""A file that can be opened and never answers a read: `python hangfs.py DIR`, needs root and /dev/fuse.

DIR/hang is served by this process alone. A reader sleeps in the kernel until SIGUSR1; a fatal signal does not wake it,
because its request is already in user space: that is state D, as with a driver that waits for its hardware.
SIGTERM unmounts. Protocol: include/uapi/linux/fuse.h, 7.31.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import struct
import sys
from typing import NoReturn

_HEADER = struct.Struct("<IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _RELEASE, _FLUSH, _INIT, _OPENDIR = 1, 2, 3, 14, 15, 18, 25, 26, 27
_RELEASEDIR, _INTERRUPT, _BATCH_FORGET = 29, 36, 42
_ROOT, _FILE = 1, 2
_DIRECT_IO = 1
_DETACH = 2
_DAY = 86_400


class HangFs:
    """One mount with one file."""

    def __init__(self, directory: str) -> None:
        self._directory = directory.encode()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._device = os.open("/dev/fuse", os.O_RDWR)
        self._held: list[int] = []
        self._released = False

    def mount(self) -> None:
        """Mount. Raises: OSError."""
        options = f"fd={self._device},rootmode=40755,user_id=0,group_id=0,allow_other".encode()
        if self._libc.mount(b"hangfs", self._directory, b"fuse", 0, options):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def unmount(self, *_: object) -> NoReturn:
        """Unmount and end; whoever still reads gets an error."""
        self._libc.umount2(self._directory, _DETACH)
        os._exit(0)

    def release(self, *_: object) -> None:
        """Answer everybody who waits, and all who come later at once."""
        self._released = True
        while self._held:
            self._reply(self._held.pop(), b"")

    def serve(self) -> None:
        """Answer the kernel until the mount is gone."""
        while True:
            try:
                request = os.read(self._device, 1 << 20)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue
                raise
            _, opcode, unique, node, *_ = _HEADER.unpack_from(request)
            self._answer(opcode, unique, node, request[_HEADER.size :])

    def _answer(self, opcode: int, unique: int, node: int, body: bytes) -> None:
        if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            return  # INTERRUPT above all: a reader that was signalled stays where it is
        if opcode == _READ and not self._released:
            self._held.append(unique)
        elif opcode == _LOOKUP and body.rstrip(b"\0") != b"hang":
            self._reply(unique, error=errno.ENOENT)
        else:
            answer = self._body(opcode, node)
            self._reply(unique, answer or b"", error=errno.ENOSYS if answer is None else 0)

    def _body(self, opcode: int, node: int) -> bytes | None:
        if opcode == _INIT:
            return struct.pack("<IIIIHHIIHHI", 7, 31, 0, 0, 12, 8, 1 << 17, 1, 1, 0, 0) + bytes(28)
        if opcode == _LOOKUP:
            return struct.pack("<QQQQII", _FILE, 0, _DAY, _DAY, 0, 0) + _attributes(_FILE)
        if opcode == _GETATTR:
            return struct.pack("<QII", _DAY, 0, 0) + _attributes(node)
        if opcode in (_OPEN, _OPENDIR):
            return struct.pack("<QII", 1, _DIRECT_IO, 0)
        return b"" if opcode in (_READ, _RELEASE, _RELEASEDIR, _FLUSH) else None

    def _reply(self, unique: int, body: bytes = b"", error: int = 0) -> None:
        try:
            os.write(self._device, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)
        except OSError as failed:
            if failed.errno != errno.ENOENT:  # the request was given up meanwhile
                raise


def _attributes(node: int) -> bytes:
    mode, size = (stat.S_IFDIR | 0o755, 0) if node == _ROOT else (stat.S_IFREG | 0o644, 4096)
    return struct.pack("<QQQQQQIIIIIIIIII", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def main() -> None:
    """Mount, say so, serve."""
    served = HangFs(sys.argv[1])
    served.mount()
    signal.signal(signal.SIGTERM, served.unmount)
    signal.signal(signal.SIGUSR1, served.release)
    print("ready", flush=True)  # noqa: T201 - the test waits for this line
    served.serve()


if __name__ == "__main__":
    main()
