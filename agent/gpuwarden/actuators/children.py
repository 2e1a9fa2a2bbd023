"""One effect in one process: started, given its job, waited for until its deadline, and ended with all it started.

A child in state D survives SIGKILL. It is not waited for: `ended` tells whether it is gone, and until then nothing else
is begun where it sits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

import structlog

from gpuwarden.actuators.wire import WireError, framed, read_frame
from gpuwarden.actuators.work import Job

_TERM_SECONDS = 1.0
_KILL_SECONDS = 2.0
MODULE = "gpuwarden.actuators.effect"


class ChildError(Exception):
    """The child gave no answer: what it was to do may be done or not."""


class Child:
    """A running child. Its stderr is ours."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self._log = structlog.get_logger()

    @classmethod
    async def start(cls, job: Job) -> Child:
        """Start a child and hand it its job. Raises: ChildError when none can be started."""
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", MODULE,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ChildError(f"no process can be started: {error.strerror}") from None
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.write(framed(job))
            process.stdin.close()
        return cls(process)

    @property
    def ended(self) -> bool:
        """Return whether the process is gone."""
        return self._process.returncode is not None

    async def answer(self, seconds: float) -> bytes:
        """Return the frame it answers with; the child and all of its process group are ended then, or being so.

        Raises: ChildError where there is none within `seconds`.
        """
        assert self._process.stdout is not None
        try:
            frame = await read_frame(self._process.stdout, seconds, patience=seconds)
        except TimeoutError:
            raise ChildError(f"not done within {seconds:.0f} s") from None
        except WireError as error:
            raise ChildError(str(error)) from None
        finally:
            await self._end()
        if frame is None:
            raise ChildError("the child that was to do it ended without a word")
        return frame

    async def _end(self) -> None:
        """End the process group: it has answered, or is late. Returns within 3 s, whether it is gone or not."""
        for number, seconds in ((None, 0.2), (signal.SIGTERM, _TERM_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
            if number is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._process.wait()
                    break
        else:
            self._log.error("child.stuck", pid=self.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # what it left behind
