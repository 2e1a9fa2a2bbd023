"""The daemon's end: keeps a holder of leases running beside it, sends it orders, and tells what it says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import structlog

from gpuwarden.actuators.leasewire import MAX_LINE_BYTES, GiveBack, Held, Ordered, line
from gpuwarden.actuators.places import lease_directory
from gpuwarden.config import Config
from gpuwarden.model.heat import HeatOrder, Lease
from gpuwarden.model.observation import AnyObservation, HeatHandsSeen, Stamp

_RETRY_SECONDS = 1.0
_SILENT_SECONDS = 20.0
_LOOK_SECONDS = 2.0
_MOST_WAITING_BYTES = 1 << 18
_GIVE_BACK_SECONDS = 25.0


class LeaseLink:
    """Orders go out as soon as they are given; none waits for a disk, and one that cannot go is dropped for the next.

    `wanted` says whether there is to be a holder at all: where the governor only tells, nothing is started.
    """

    def __init__(
        self,
        directory: Path,
        emit: Callable[[AnyObservation], None],
        clock: Callable[[], Stamp],
        *,
        linger_seconds: float,
        wanted: Callable[[], bool],
        setter_module: str = "gpuwarden.nvml.setter",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self._emit = emit
        self._clock = clock
        self._linger = linger_seconds
        self._wanted = wanted
        self._setter = setter_module
        self._environ = dict(environ or {})
        self._writer: asyncio.StreamWriter | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._log = structlog.get_logger()

    def order(self, order: HeatOrder) -> None:
        """Send an order; without a holder, or with one that does not read, it is lost: the next comes in a second."""
        writer = self._writer
        if writer is not None and writer.transport.get_write_buffer_size() < _MOST_WAITING_BYTES:
            writer.write(line(Ordered(order)))

    async def run(self) -> None:
        """Keep a connection to a holder for as long as one is wanted."""
        while True:
            if not self._wanted():
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            try:
                await self._connected()
            except (OSError, ValueError, TimeoutError, msgspec.DecodeError) as error:
                self._emit(HeatHandsSeen(at=self._clock(), up=False, detail=str(error)))
                self._start()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _connected(self) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self._directory / "leases.sock"), limit=MAX_LINE_BYTES)
        self._writer = writer
        try:
            while True:
                async with asyncio.timeout(_SILENT_SECONDS):
                    raw = await reader.readline()
                if not raw:
                    raise ConnectionResetError("the holder of leases is gone")
                held = msgspec.json.decode(raw, type=Held)
                self._emit(HeatHandsSeen(at=self._clock(), up=True, leases=held.leases, refusals=held.refusals))
        finally:
            self._writer = None
            writer.close()

    def _start(self) -> None:
        """Start a holder in a session of its own, unless the last one we started still lives."""
        if self._child is not None and self._child.poll() is None:
            return
        try:
            self._child = subprocess.Popen(
                [
                    sys.executable, "-P", "-m", "gpuwarden.actuators.leaseholder", str(self._directory),
                    "--linger", str(self._linger), "--setter", self._setter,
                ],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ, **self._environ},
                start_new_session=True,
            )  # fmt: skip
            self._log.info("leases.holder_started", pid=self._child.pid)
        except OSError as error:
            self._log.error("leases.holder_not_started", why=str(error))


def governs(config: Config) -> bool:
    """Return whether the heat governor may change settings: only then somebody is needed who holds them."""
    return config.thermal.governor and config.mode == "enforce" and config.actions.mitigate == "enforce"


def lease_link(
    config: Config,
    emit: Callable[[AnyObservation], None],
    clock: Callable[[], Stamp],
    *,
    wanted: Callable[[], bool],
    setter_environ: Mapping[str, str] | None,
) -> LeaseLink:
    """Return the link of this configuration; `setter_environ` is what a setter needs to find a simulated node."""
    simulated = setter_environ is not None
    return LeaseLink(
        lease_directory(config, simulated=simulated),
        emit,
        clock,
        linger_seconds=config.thermal.lease_linger_seconds,
        wanted=wanted,
        setter_module="gpuwarden.sim.setter" if simulated else "gpuwarden.nvml.setter",
        environ=setter_environ,
    )


async def give_back(directory: Path, *, everything: bool) -> tuple[Lease, ...] | None:
    """Have a running holder give back what is unsafe to keep, or everything, and return what could not be.

    None: no holder answers.
    """
    try:
        async with asyncio.timeout(_GIVE_BACK_SECONDS):
            reader, writer = await asyncio.open_unix_connection(str(directory / "leases.sock"), limit=MAX_LINE_BYTES)
            with contextlib.closing(writer):
                writer.write(line(GiveBack(everything)))
                while raw := await reader.readline():
                    held = msgspec.json.decode(raw, type=Held)
                    if held.final:
                        return held.kept
    except (OSError, TimeoutError, ValueError):
        pass
    return None
