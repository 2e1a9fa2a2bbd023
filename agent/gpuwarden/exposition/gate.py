"""What stands between a socket and the HTTP parser: limits in number, size and time for clients we do not trust.

aiohttp bounds a request line and each header field; a gate bounds what a client can do with time and with many
connections: slow headers, slow reading, pipelined floods, connections that do nothing. It sees bytes, never requests;
the application tells it when a request begins to be served and when its answer was written.
"""

from __future__ import annotations

import asyncio
import enum
import ssl
from collections.abc import Callable
from typing import cast

import msgspec
import structlog


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one listener."""

    connections: int = 256
    header_seconds: float = 10.0  # from the first byte of a request, or the connection, to its complete header
    write_seconds: float = 10.0  # for a client to take all of an answer that did not fit into the socket's buffer
    handshake_seconds: float = 5.0
    received_bytes: int = 32 * 1024  # per request, header and body


class Phase(enum.Enum):
    """What a connection is busy with."""

    HANDSHAKE = "handshake"
    HEADER = "header"
    SERVING = "serving"
    IDLE = "idle"
    CLOSED = "closed"


_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Gates:
    """All connections of one listener; calling it makes the protocol of the next one.

    `parser` makes the HTTP protocol of a connection, `tls` returns the context for the next handshake or None.
    `san_allowed` judges a client certificate by its subject alternative names; None: every verified one may.
    """

    def __init__(
        self,
        parser: Callable[[], asyncio.Protocol],
        limits: Limits,
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
        san_allowed: Callable[[tuple[str, ...]], bool] | None = None,
    ) -> None:
        self.parser = parser
        self.limits = limits
        self.tls = tls
        self.san_allowed = san_allowed
        self.open: set[Gate] = set()
        self.by_parser: dict[asyncio.BaseProtocol, Gate] = {}
        self.refused = 0
        self.log = structlog.get_logger()

    def __call__(self) -> Gate:
        """Return the protocol of one new connection."""
        return Gate(self)

    def admit(self, gate: Gate) -> bool:
        """Return whether one more connection may be; the one that has idled longest makes room for it.

        A connection whose request is being served is never dropped for another, so that a crowd that only connects
        cannot keep a scraper out.
        """
        if len(self.open) >= self.limits.connections:
            waiting = [each for each in self.open if each.phase is not Phase.SERVING]
            if not waiting:
                self.refused += 1
                return False
            min(waiting, key=lambda each: each.since).abort()
        self.open.add(gate)
        return True

    def began(self, parser: asyncio.BaseProtocol) -> None:
        """A request of this connection is complete and being served."""
        gate = self.by_parser.get(parser)
        if gate is not None:
            gate.enter(Phase.SERVING)

    def finished(self, parser: asyncio.BaseProtocol) -> None:
        """The answer was written; the connection idles."""
        gate = self.by_parser.get(parser)
        if gate is not None and gate.phase is Phase.SERVING:
            gate.enter(Phase.IDLE)

    def abort_all(self) -> None:
        """Drop every connection."""
        for gate in tuple(self.open):
            gate.abort()


class Gate(asyncio.Protocol):
    """One connection."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: asyncio.Protocol | None = None
        self._received = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._handshake: asyncio.Task[None] | None = None
        self.phase = Phase.HEADER
        self.since = self._loop.time()

    # ---- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the connection in, through a TLS handshake where TLS is configured."""
        self._transport = cast(asyncio.Transport, transport)
        tls = self._gates.tls()
        if not self._gates.admit(self):
            self._refuse(_BUSY if tls is None else b"")
        elif tls is None:
            self._open()
        else:
            self._transport.pause_reading()
            _unbuffered(self._transport)
            self.enter(Phase.HANDSHAKE)
            self._handshake = self._loop.create_task(self._secure(tls), name="tls-handshake")

    async def _secure(self, tls: ssl.SSLContext) -> None:
        assert self._transport is not None
        limits = self._gates.limits
        try:
            secured = await self._loop.start_tls(
                self._transport,
                self,
                tls,
                server_side=True,
                ssl_handshake_timeout=limits.handshake_seconds,
                ssl_shutdown_timeout=1.0,
            )
        except (OSError, ssl.SSLError, TimeoutError) as error:  # scanners and clients without a certificate are daily
            self._gates.log.debug("tls.handshake_failed", error=str(error))
            self.abort()
            return
        if self.phase is Phase.CLOSED or secured is None:
            return
        self._transport = secured
        if self._gates.san_allowed is not None and not self._gates.san_allowed(_names(secured)):
            self.abort()
        else:
            self._open()

    def _open(self) -> None:
        assert self._transport is not None
        _unbuffered(self._transport)
        self._parser = self._gates.parser()
        self._gates.by_parser[self._parser] = self
        self.enter(Phase.HEADER)
        self._parser.connection_made(self._transport)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on while the client stays within what one request may be."""
        if self._parser is None or self.phase is Phase.CLOSED:
            return
        if self.phase is Phase.IDLE:
            self.enter(Phase.HEADER)
        self._received += len(data)
        if self._received <= self._gates.limits.received_bytes:
            self._parser.data_received(data)
        elif self.phase is Phase.SERVING:
            self.abort()
        else:
            self._refuse(_TOO_LARGE)

    def eof_received(self) -> bool | None:
        """The client will send no more."""
        return self._parser.eof_received() if self._parser is not None else None

    def pause_writing(self) -> None:
        """The client does not take what we send: it has until the deadline."""
        if self._write_deadline is None:
            self._write_deadline = self._loop.call_later(self._gates.limits.write_seconds, self.abort)
        if self._parser is not None:
            self._parser.pause_writing()

    def resume_writing(self) -> None:
        """The client took everything."""
        self._cancel_write_deadline()
        if self._parser is not None:
            self._parser.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.enter(Phase.CLOSED)
        self._cancel_write_deadline()
        self._gates.open.discard(self)
        if self._parser is not None:
            self._gates.by_parser.pop(self._parser, None)
            self._parser.connection_lost(exc)
            self._parser = None

    # ---- from the application

    def enter(self, phase: Phase) -> None:
        """Move to a phase; only an unfinished header has a deadline here, keep-alive is the parser's."""
        if self.phase is Phase.CLOSED:
            return
        self.phase = phase
        self.since = self._loop.time()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if phase is Phase.HEADER:
            self._deadline = self._loop.call_later(self._gates.limits.header_seconds, self.abort)
        if phase in (Phase.SERVING, Phase.IDLE):
            self._received = 0

    def abort(self) -> None:
        """Drop the connection at once, whatever is still to be written."""
        self._gates.open.discard(self)
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, answer: bytes) -> None:
        """Say why, as far as the socket takes it at once, and close."""
        assert self._transport is not None
        if answer and self.phase is not Phase.HANDSHAKE:
            self._transport.write(answer)
        self._transport.close()
        self._loop.call_later(1.0, self._transport.abort)

    def _cancel_write_deadline(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None


def _unbuffered(transport: asyncio.Transport) -> None:
    """Have writing pause as soon as anything does not fit into the socket: that starts the clock."""
    transport.set_write_buffer_limits(high=1, low=0)


def _names(transport: asyncio.BaseTransport) -> tuple[str, ...]:
    """Return the subject alternative names of the client's certificate."""
    certificate = transport.get_extra_info("peercert") or {}
    return tuple(value for _, value in certificate.get("subjectAltName", ()))
