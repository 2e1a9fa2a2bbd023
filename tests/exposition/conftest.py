"""A running server on a free port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gpuwarden.config import Web
from gpuwarden.exposition.http import HttpServer
from support.webserver import Running, Serve, Source


@pytest.fixture
def source() -> Source:
    """A healthy node of eight H100s."""
    return Source()


@pytest.fixture
async def serve(source: Source, tmp_path: Path) -> AsyncIterator[Serve]:
    """Start servers; all of them are stopped at the end."""
    async with AsyncExitStack() as stack:

        async def start(listen: tuple[str, ...] = ("127.0.0.1:0",), config_file: str = "", **options: Any) -> Running:
            server = HttpServer(Web(listen=listen, config_file=config_file), source, runtime_dir=tmp_path, **options)
            await server.start()
            stack.push_async_callback(server.stop)
            return Running(server, source, tmp_path)

        yield start


@pytest.fixture
async def running(serve: Serve) -> Running:
    """A server with defaults."""
    return await serve()
