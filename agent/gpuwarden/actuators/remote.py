"""The main process's end of the actuator: the runner's Protocol over its socket. The only part of this room it loads.

Each question is a connection of its own, so there is no state to lose: an actuator that was restarted answers the next
one, and an intent whose answer was lost is asked for again under its id.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from gpuwarden import __version__
from gpuwarden.actuators.wire import (
    PROTOCOL,
    RESPONSES,
    Answered,
    Ask,
    Hello,
    Look,
    Rejected,
    Response,
    Seen,
    Welcome,
    WireError,
    framed,
    read_frame,
)
from gpuwarden.config import Config
from gpuwarden.errors import ActuatorError
from gpuwarden.model.case import Intent, Outcome, Surroundings
from gpuwarden.runner import Actuator

_CONNECT_SECONDS = 5.0
_LOOK_SECONDS = 18.0
_GRACE_SECONDS = 8.0  # over an intent's own deadline
_START_SECONDS = 10.0
_AGAIN_SECONDS = 0.1


class NotThereError(ActuatorError):
    """There is no actuator behind the socket: nothing was asked, so nothing was begun."""


class Remote:
    """An actuator behind a Unix socket. `command` starts one where none answers (inline mode)."""

    def __init__(self, path: Path, command: Sequence[str] = ()) -> None:
        self._path = path
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = asyncio.Lock()
        self._log = structlog.get_logger()

    async def ask(self, intent: Intent) -> tuple[Outcome, str]:
        """Have an effect brought about. Raises: ActuatorError where there is no answer."""
        try:
            response = await self._request(Ask(intent), intent.deadline_seconds + _GRACE_SECONDS)
        except NotThereError as error:
            return Outcome.REFUSED, str(error)
        if isinstance(response, Answered):
            return response.outcome, response.detail
        raise ActuatorError(_why(response))

    async def look(self) -> Surroundings:
        """Return what the actuator sees. Raises: ActuatorError where there is no answer."""
        response = await self._request(Look(), _LOOK_SECONDS)
        if isinstance(response, Seen):
            return response.surroundings
        raise ActuatorError(_why(response))

    async def _request(self, request: Ask | Look, seconds: float) -> Response:
        reader, writer = await self._connect()
        try:
            writer.write(framed(Hello(protocol=PROTOCOL, version=__version__)) + framed(request))
            greeting = await self._read(reader, _CONNECT_SECONDS)
            if not isinstance(greeting, Welcome):
                raise ActuatorError(_why(greeting))
            return await self._read(reader, seconds)
        except OSError as error:
            raise ActuatorError(f"the actuator broke off: {error}") from None
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, seconds: float) -> Response:
        try:
            frame = await read_frame(reader, _CONNECT_SECONDS, patience=seconds)
            if frame is None:
                raise ActuatorError("the actuator broke off")
            return RESPONSES.decode(frame)
        except TimeoutError:
            raise ActuatorError("the actuator does not answer") from None
        except (WireError, msgspec.DecodeError) as error:
            raise ActuatorError(f"the actuator's answer cannot be read: {error}") from None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection, having started an actuator where that is ours to do. Raises: ActuatorError."""
        async with self._starting:
            try:
                return await self._open()
            except NotThereError:
                if not self._command:
                    raise
            return await self._start()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                return await asyncio.open_unix_connection(self._path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotThereError(f"no actuator at {self._path}") from None
        except PermissionError:
            raise NotThereError(f"the actuator's socket {self._path} may not be used by this user") from None
        except TimeoutError:
            raise NotThereError(f"the actuator at {self._path} takes no connection") from None
        except OSError as error:
            raise NotThereError(f"{self._path}: {error}") from None

    async def _start(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Start one in a session of its own: it outlives us, and ends by itself when nothing is left to do."""
        try:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - vfork and exec of ourselves
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            raise NotThereError(f"no actuator can be started: {error.strerror}") from None
        self._log.info("actuator.started", pid=self._process.pid)
        until = asyncio.get_running_loop().time() + _START_SECONDS
        while self._process.poll() is None and asyncio.get_running_loop().time() < until:
            try:
                return await self._open()
            except NotThereError:
                await asyncio.sleep(_AGAIN_SECONDS)
        code = self._process.returncode
        raise NotThereError("the actuator is not up yet" if code is None else f"the actuator ended with status {code}")


def actuator_for(config: Config, config_path: Path | None = None) -> Actuator:
    """Return the actuator that a configuration means: the one behind the socket, or one of our own (inline)."""
    path = Path(config.actuator.socket)
    if not config.actuator.inline:
        return Remote(path)
    given = ("--config", str(config_path)) if config_path is not None else ()
    return Remote(path, (sys.executable, "-P", "-m", "gpuwarden.cli", "actuator", "--exit-when-idle", *given))


def _why(response: Response) -> str:
    return response.why if isinstance(response, Rejected) else f"an answer of the wrong kind: {type(response).__name__}"
