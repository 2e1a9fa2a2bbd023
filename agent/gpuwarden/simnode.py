"""The daemon's hold on a simulated node: the server process, and where it shows what real hosts show."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from gpuwarden.errors import InputError

_READY_SECONDS = 15.0


class SimNode:
    """One simulated node in its own process. It lives until `stop`, or until this process is gone.

    A spec that is the socket of a node that runs already joins it: it is not ours to start or to end.
    """

    worker_module = "gpuwarden.sim.worker"

    def __init__(self, spec: str, directory: Path, *, speed: float = 1.0) -> None:
        self._spec = spec
        self._joined = Path(spec).is_socket()
        self._directory = Path(spec).parent if self._joined else directory
        self._speed = speed
        self._process: asyncio.subprocess.Process | None = None
        self._relay: asyncio.Task[None] | None = None

    @property
    def socket(self) -> Path:
        """Where the NVML library of the simulated node is reached."""
        return self._directory / "sim.sock"

    @property
    def kmsg(self) -> Path:
        """The simulated kernel log: raw `/dev/kmsg` records in a regular file."""
        return self._directory / "kmsg"

    @property
    def sysfs(self) -> Path:
        """The root of the simulated sysfs."""
        return self._directory / "sys"

    @property
    def units(self) -> Path:
        """What the simulated service manager shows of the units that are looked at."""
        return self._directory / "units"

    @property
    def procfs(self) -> Path:
        """The root of the simulated process file system."""
        return self._directory / "proc"

    @property
    def worker_environ(self) -> dict[str, str]:
        """What the NVML worker needs to find the node."""
        return {"GPUWARDEN_SIM_SOCKET": str(self.socket)}

    def boot_id(self) -> str:
        """Return the boot id of the simulated node: a new one each time its server starts."""
        return (self._directory / "boot_id").read_text(encoding="ascii").strip()

    async def start(self) -> None:
        """Start the server and wait until it serves.

        Raises: InputError with the server's own words where the product or scenario is not what it should be, or
        where it is not up in time.
        """
        if self._joined:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        command = ("-m", "gpuwarden.sim.server", "--spec", self._spec, "--dir", str(self._directory))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            *command,
            "--speed",
            str(self._speed),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_READY_SECONDS):
                line = await self._process.stdout.readline()
        except TimeoutError:
            await self.stop()
            raise InputError(f"the simulated node {self._spec!r} was not up within {_READY_SECONDS:.0f} s") from None
        if line.strip() != b"ready":
            raise InputError(f"cannot simulate {self._spec!r}: {await self._last_words()}")
        self._relay = asyncio.create_task(self._relay_stderr(), name="sim-stderr")

    async def _relay_stderr(self) -> None:
        """Pass on what the server says later, so that it never waits for us to read."""
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            sys.stderr.write(line.decode(errors="replace"))

    async def _last_words(self) -> str:
        """Return what the server said before it ended, its last line."""
        assert self._process is not None
        assert self._process.stderr is not None
        words = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                words = await self._process.stderr.read()
        await self.stop()
        lines = words.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"

    async def stop(self) -> None:
        """End the server: close its stdin, then SIGKILL after a second."""
        if self._process is None or self._process.returncode is not None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(1.0):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
