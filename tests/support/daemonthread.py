"""The daemon's HTTP side in a thread of its own, for commands that ask it and wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gpuwarden.config import Web
from gpuwarden.exposition.http import HttpServer, Verb
from support.webserver import Source

_SECONDS = 10.0


@contextmanager
def daemon_thread(source: Source, runtime_dir: Path, verbs: Mapping[str, Verb] | None = None) -> Iterator[None]:
    """Serve `source` on `runtime_dir`/status.sock while the block runs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="daemon", daemon=True)
    thread.start()
    server = HttpServer(Web(listen=("127.0.0.1:0",)), source, runtime_dir=runtime_dir, verbs=verbs)
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(_SECONDS)
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_SECONDS)
        loop.close()
