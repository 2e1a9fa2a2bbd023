"""The process that holds the leases: in a session of its own, so that it outlives a daemon that is killed or hangs.

`python -P -m gpuwarden.actuators.leaseholder DIR --linger SECONDS [--setter MODULE]`: serves DIR/leases.sock for the
user it runs as, keeps DIR/leases.json, and ends when nothing is on loan and nobody was connected for a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path

import msgspec
import structlog

from gpuwarden import log
from gpuwarden.actuators.cards import ChildHands
from gpuwarden.actuators.holder import LeaseHolder
from gpuwarden.actuators.leasefile import LeaseFile
from gpuwarden.actuators.leasewire import MAX_LINE_BYTES, Ask, GiveBack, Held, Ordered, line

SIMULATED = "simulated"
"""File beside the ledger that names the simulated node whose settings it is about."""
_TELL_SECONDS = 5.0
_IDLE_SECONDS = 60.0
_MOST_WAITING_BYTES = 1 << 20
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boottime() -> float:
    """Return CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def lease_file(directory: Path) -> LeaseFile:
    """Return the ledger's file in a directory, of the present boot."""
    return LeaseFile(directory / "leases.json", _BOOT_ID.read_text(encoding="ascii").strip())


class HolderServer:
    """The holder behind its socket."""

    def __init__(self, directory: Path, hands: ChildHands, linger_seconds: float) -> None:
        self._path = directory / "leases.sock"
        self._holder = LeaseHolder(lease_file(directory), hands, boottime, linger_seconds, self._tell)
        self._clients: set[asyncio.StreamWriter] = set()
        self._busy_at = boottime()
        self._told_at = 0.0
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Serve until nothing is on loan and nobody has been here for a while."""
        self._path.unlink(missing_ok=True)
        previous = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(self._serve, str(self._path), limit=MAX_LINE_BYTES)
        finally:
            os.umask(previous)
        async with server:
            while True:
                now = boottime()
                self._holder.tick()
                if now - self._told_at >= _TELL_SECONDS:
                    self._tell()
                if self._clients or self._holder.ledger.leases:
                    self._busy_at = now
                elif now - self._busy_at > _IDLE_SECONDS:
                    self._path.unlink(missing_ok=True)
                    return
                await asyncio.sleep(1.0)

    def _tell(self) -> None:
        self._told_at = boottime()
        told = line(Held(leases=self._holder.ledger.leases, refusals=self._holder.refusals))
        for client in self._clients:
            if client.transport.get_write_buffer_size() < _MOST_WAITING_BYTES:
                client.write(told)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one client's lines until it goes; what is no line of ours ends the connection, and nothing else."""
        try:
            if not _is_ours(writer):
                return
            self._clients.add(writer)
            self._tell()
            while raw := await reader.readline():
                match msgspec.json.decode(raw, type=Ask):
                    case Ordered(order):
                        self._holder.order(order)
                    case GiveBack(everything):
                        kept = await self._holder.give_back(everything=everything)
                        writer.write(line(Held(leases=self._holder.ledger.leases, final=True, kept=kept)))
        except (OSError, ValueError, msgspec.DecodeError) as error:
            self._log.warning("leases.client_refused", why=str(error))
        finally:
            self._clients.discard(writer)
            with contextlib.suppress(OSError):
                writer.close()


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    """Return whether the other end runs as our own user, or as root."""
    end: socket.socket = writer.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid in (0, os.geteuid())


def main() -> None:
    """Hold the leases of one directory. A second holder ends at once."""
    parser = argparse.ArgumentParser(prog="python -m gpuwarden.actuators.leaseholder")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--linger", type=float, default=900.0)
    parser.add_argument("--setter", default="gpuwarden.nvml.setter")
    arguments = parser.parse_args()
    log.configure("info", "json")
    arguments.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it is told to end by its work, or by SIGTERM
    lock = os.open(arguments.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    node = os.environ.get("GPUWARDEN_SIM_SOCKET")
    if node:
        (arguments.directory / SIMULATED).write_text(node, encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    asyncio.run(HolderServer(arguments.directory, ChildHands(arguments.setter), arguments.linger).run())


if __name__ == "__main__":
    main()
    sys.exit(0)
