"""The actuator's door: a Unix socket, who may come in, and one answer per request. It judges nothing else.

Only root, whoever the actuator runs as, and `[actuator] user` get an answer. Frames are small, reads have deadlines,
connections are counted; what is malformed ends its connection and touches nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
import structlog

from gpuwarden import __version__
from gpuwarden.actuators.backend import Answer
from gpuwarden.actuators.performer import CannotAnswerError
from gpuwarden.actuators.wire import (
    MAX_FRAME_BYTES,
    PROTOCOL,
    REQUESTS,
    Answered,
    Ask,
    Hello,
    Look,
    Rejected,
    Request,
    Response,
    Seen,
    Welcome,
    WireError,
    framed,
    read_frame,
)
from gpuwarden.model.case import Intent, Surroundings

MOST_CONNECTIONS = 32
_FRAME_SECONDS = 5.0  # from a frame's first byte to its last, and for an answer to be taken
_QUIET_SECONDS = 30.0  # between two requests of a connection
_LINGER_SECONDS = 1.0
_UCRED = struct.Struct("iII")


class Work(Protocol):
    """Who answers: the performer."""

    async def ask(self, intent: Intent) -> Answer:
        """Return what becomes of an intent. Raises: CannotAnswerError."""
        ...

    async def look(self) -> Surroundings:
        """Return what is seen around the node."""
        ...

    @property
    def busy(self) -> bool:
        """Return whether anything is under way."""
        ...


class Server:
    """Serves one performer until `stop`. `others` say whether something else keeps the process up."""

    def __init__(
        self,
        performer: Work,
        uids: frozenset[int],
        *,
        idle_seconds: float | None = None,
        others: Iterable[Callable[[], bool]] = (),
        frame_seconds: float = _FRAME_SECONDS,
    ) -> None:
        self._performer = performer
        self._uids = uids
        self._idle_seconds = idle_seconds
        self._others = tuple(others)
        self._frame_seconds = frame_seconds
        self._connections = 0
        self._last = 0.0
        self._log = structlog.get_logger()

    async def serve(self, listening: socket.socket, stop: asyncio.Event) -> None:
        """Serve until told to stop, or idle for long enough where that ends it."""
        loop = asyncio.get_running_loop()
        self._last = loop.time()
        server = await asyncio.start_unix_server(self._connected, sock=listening, backlog=16)
        try:
            while not stop.is_set() and not self._idle():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0 if self._idle_seconds is None else min(1.0, self._idle_seconds)):
                        await stop.wait()
        finally:
            server.close()

    def _idle(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._connections or self._performer.busy or any(busy() for busy in self._others):
            self._last = now
        return self._idle_seconds is not None and now - self._last >= self._idle_seconds

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        self._connections += 1
        try:
            if why := self._turned_away(writer):
                with contextlib.suppress(OSError):
                    await self._say(writer, Rejected(why))
                    await self._linger(reader, writer)
                return
            await self._converse(reader, writer)
        except (WireError, TimeoutError, ConnectionError, msgspec.DecodeError) as error:
            self._log.warning("request.refused", detail=str(error) or type(error).__name__)
            with contextlib.suppress(OSError):
                await self._say(writer, Rejected("this is no request"))
                await self._linger(reader, writer)
        finally:
            self._connections -= 1
            self._last = asyncio.get_running_loop().time()
            writer.close()

    def _turned_away(self, writer: asyncio.StreamWriter) -> str:
        pid, uid, _ = _UCRED.unpack(
            writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        )
        if uid not in self._uids:
            self._log.warning("peer.refused", pid=pid, uid=uid)
            return f"uid {uid} may not ask"
        return "too many connections" if self._connections > MOST_CONNECTIONS else ""

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeted = False
        patience = self._frame_seconds
        while (frame := await read_frame(reader, self._frame_seconds, patience=patience)) is not None:
            request = REQUESTS.decode(frame)
            if isinstance(request, Hello) is greeted:
                raise WireError("a greeting is wanted once, and first")
            if isinstance(request, Hello) and request.protocol != PROTOCOL:
                await self._say(writer, Rejected(f"protocol {request.protocol} is asked for, this is {PROTOCOL}"))
                return
            greeted, patience = True, _QUIET_SECONDS
            await self._say(writer, await self._response(request))

    async def _response(self, request: Request) -> Response:
        try:
            match request:
                case Hello():
                    return Welcome(protocol=PROTOCOL, version=__version__)
                case Ask(intent=intent):
                    outcome, detail = await self._performer.ask(intent)
                    return Answered(outcome, detail[:2000])
                case Look():
                    return Seen(await self._performer.look())
        except CannotAnswerError as error:
            return Rejected(str(error))

    async def _linger(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Let the other end take what was said: closed over what it still sends, it would only see a broken pipe."""
        if self._connections > 2 * MOST_CONNECTIONS:
            return
        writer.write_eof()
        left = MAX_FRAME_BYTES
        async with asyncio.timeout(_LINGER_SECONDS):
            while left > 0 and (read := await reader.read(left)):
                left -= len(read)

    async def _say(self, writer: asyncio.StreamWriter, response: Response) -> None:
        writer.write(framed(response))
        async with asyncio.timeout(self._frame_seconds):
            await writer.drain()
