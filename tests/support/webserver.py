"""A source that tests steer, and HTTP spoken byte by byte to the server that shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from gpuwarden.exposition.history import History, Point
from gpuwarden.exposition.http import HttpServer
from gpuwarden.exposition.native import Extras
from gpuwarden.exposition.render import Dialects
from gpuwarden.exposition.routes import Readiness
from gpuwarden.model.finding import Event
from gpuwarden.model.snapshot import NodeState
from support.nodes import EXTRAS, NOW, product_node


class Source:
    """A NodeSource whose answers a test sets."""

    def __init__(self) -> None:
        self.state: NodeState = product_node("h100", 8)
        self.ready = Readiness(restored=True, looked_back=True, nvml_judged=True)
        self.why_stalled = ""
        self.shown = Dialects()
        self.is_reloading = False
        self.kept: list[Event] = []
        self.asked: list[tuple[str | None, float | None, int]] = []
        self.slow_events = asyncio.Event()
        self.slow_events.set()
        self.ring = History()

    def node(self) -> NodeState:
        return self.state

    def extras(self) -> Extras:
        return EXTRAS

    def dialects(self) -> Dialects:
        return self.shown

    def reloading(self) -> bool:
        return self.is_reloading

    def readiness(self) -> Readiness:
        return self.ready

    def stalled(self) -> str:
        return self.why_stalled

    async def events(self, kind: str | None, since: float | None, limit: int) -> Sequence[Event]:
        self.asked.append((kind, since, limit))
        await self.slow_events.wait()
        return self.kept[-limit:]

    def history(self, uuid: str, reading: str, seconds: float) -> list[Point]:
        return self.ring.points(uuid, reading, seconds, NOW.wall)


class Answer:
    """One HTTP answer as bytes on the wire gave it."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1]) if first.startswith("HTTP/") else 0
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def exchange(address: str | Path, raw: bytes, *, tls: Any = None, seconds: float = 10.0) -> Answer:
    """Send bytes to host:port or a Unix socket and return the answer; the request says Connection: close."""
    async with asyncio.timeout(seconds):
        if isinstance(address, Path):
            reader, writer = await asyncio.open_unix_connection(str(address))
        else:
            reader, writer = await asyncio.open_connection(*_host_and_port(address), ssl=tls)
        try:
            writer.write(raw)
            await writer.drain()
            return Answer(await reader.read())
        finally:
            writer.close()


def request(path: str = "/metrics", method: str = "GET", body: bytes = b"", **headers: str) -> bytes:
    """Return the bytes of one request; header names with underscores for dashes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Running:
    """A server and where it listens."""

    def __init__(self, server: HttpServer, source: Source, runtime_dir: Path) -> None:
        self.server = server
        self.source = source
        self.socket = runtime_dir / "status.sock"
        self.url = server.urls[0]
        self.address = self.url.partition("://")[2]

    async def get(self, path: str = "/metrics", method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        """Ask over TCP without TLS."""
        return await exchange(self.address, request(path, method, body, **headers))


Serve = Callable[..., Awaitable[Running]]
"""Starts a server: listen addresses, web configuration file, and HttpServer's own options."""


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
