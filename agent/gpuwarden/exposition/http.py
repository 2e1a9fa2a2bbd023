"""The HTTP server: listeners, limits, TLS, and the status socket.

`NodeSource` is what it asks the daemon; it knows nothing else of it. Every wait in here is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from gpuwarden.config import Web
from gpuwarden.exposition.gate import Gates, Limits
from gpuwarden.exposition.listen import listen_tcp, listen_unix, url_of
from gpuwarden.exposition.routes import MAX_BODY_BYTES, NodeSource, Readiness, Routes, Verb
from gpuwarden.exposition.security import Security

__all__ = ["HttpServer", "NodeSource", "Readiness", "Verb"]

KEEPALIVE_SECONDS = 75.0  # above the common scrape interval of 60 s
_REFRESH_SECONDS = 1.0
SOCKET_NAME = "status.sock"
_SOCKET_LIMITS = Limits(connections=64, received_bytes=32 * 1024 + MAX_BODY_BYTES)

_QUIET = logging.getLogger("gpuwarden.http")  # aiohttp tells every malformed request: daily life on an open port
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False
_QUIET.setLevel(logging.CRITICAL + 1)


class HttpServer:
    """Serves the node's state over TCP, and over `runtime_dir`/status.sock where that is given.

    `verbs` (name -> handler) answer POST /api/v1/<name>, on the status socket only. `clock` is monotonic seconds.
    """

    def __init__(
        self,
        config: Web,
        source: NodeSource,
        *,
        runtime_dir: Path | None = None,
        verbs: Mapping[str, Verb] | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._socket_path = runtime_dir / SOCKET_NAME if runtime_dir is not None else None
        self._verbs = dict(verbs or {})
        self._limits = limits or Limits()
        self._routes = Routes(source, clock)
        self._security = Security(config.config_file)
        self._listeners: list[_Listener] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger()
        self.urls: tuple[str, ...] = ()

    async def start(self) -> tuple[str, ...]:
        """Open all listeners and return their URLs, with the bound ports.

        Raises: ConfigError (addresses, web configuration), InputError (an address or the socket cannot be had).
        """
        try:
            self._security.load()
            web_side = _Listener(self._limits, self._security)
            self._listeners.append(web_side)
            await web_side.prepare(
                self._routes.application(
                    web_side.began, lambda: self._security.credentials, self._security.config.headers
                )
            )
            scheme = "https" if self._security.tls() else "http"
            self.urls = tuple([await web_side.listen_tcp(text, scheme) for text in self._config.listen])
            if self._socket_path is not None:
                local = _Listener(_SOCKET_LIMITS)
                self._listeners.append(local)
                await local.prepare(self._routes.application(local.began, verbs=self._verbs))
                await local.listen_unix(self._socket_path)
        except BaseException:
            await self.stop()
            raise
        self._tasks.append(asyncio.create_task(self._refresh(), name="http-refresh"))
        self._tasks.append(asyncio.create_task(self._security.watch(), name="http-certificates"))
        return self.urls

    async def stop(self, grace_seconds: float = 1.0) -> None:
        """Close listeners, then connections; answers being written get `grace_seconds`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for listener in self._listeners:
            await listener.close(grace_seconds)
        self._listeners.clear()
        self._security.close()

    async def reload(self) -> None:
        """Read the web configuration again (users and certificates); listen addresses stay.

        Raises: ConfigError, and the old one stays in force.
        """
        await self._security.reload()

    async def _refresh(self) -> None:
        """Render ahead of the scrapes. A rendering that raises is logged once per kind, and scrapes say so too."""
        failed = ""
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            try:
                self._routes.renderer.refresh()
                failed = ""
            except Exception as error:
                if type(error).__name__ != failed:
                    failed = type(error).__name__
                    self._log.exception("exposition.render_failed")


class _Listener:
    """One application behind one set of gates, on any number of sockets."""

    def __init__(self, limits: Limits, security: Security | None = None) -> None:
        self._limits = limits
        self._security = security
        self._runner: web.AppRunner | None = None
        self._gates: Gates | None = None
        self._servers: list[asyncio.Server] = []
        self._path: Path | None = None

    def began(self, request: web.Request) -> None:
        """A request is complete and being served."""
        if self._gates is not None:
            self._gates.began(request.protocol)

    def finished(self, request: web.BaseRequest) -> None:
        """Its answer was written."""
        if self._gates is not None:
            self._gates.finished(request.protocol)

    async def prepare(self, application: web.Application) -> None:
        """Make the HTTP side of the listener."""
        self._runner = web.AppRunner(
            application,
            handle_signals=False,
            access_log=_QUIET,
            access_log_class=_told(self.finished),
            logger=_QUIET,
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=0.0,
            shutdown_timeout=1.0,
        )
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        self._gates = Gates(
            server,
            self._limits,
            self._security.tls if self._security else lambda: None,
            self._security.san_allowed if self._security else None,
        )

    async def listen_tcp(self, text: str, scheme: str) -> str:
        """Listen on one address and return its URL."""
        assert self._gates is not None
        listening = listen_tcp(text)
        self._servers.append(await asyncio.get_running_loop().create_server(self._gates, sock=listening))
        return url_of(listening, scheme)

    async def listen_unix(self, path: Path) -> None:
        """Listen on a Unix socket."""
        assert self._gates is not None
        listening = listen_unix(path)
        self._path = path
        self._servers.append(await asyncio.get_running_loop().create_unix_server(self._gates, sock=listening))

    async def close(self, grace_seconds: float) -> None:
        """Close sockets, wait a moment for answers under way, drop the rest."""
        for server in self._servers:
            server.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                if self._runner is not None:
                    await self._runner.cleanup()
        if self._gates is not None:
            self._gates.abort_all()


def _told(finished: Callable[[web.BaseRequest], None]) -> type[AbstractAccessLogger]:
    """Return an access logger that logs nothing and tells that an answer was written."""

    class Told(AbstractAccessLogger):
        """aiohttp's hook after the last byte of an answer was handed to the transport."""

        def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:  # noqa: ARG002
            """Tell that this request is done."""
            finished(request)

    return Told
