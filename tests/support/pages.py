"""Hosts made of nothing but their metrics page, for what a simulated host cannot easily be brought to say."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Page:
    """One host: what it answers to a scrape; None: it answers with an error. `address` is where it listens."""

    def __init__(self, text: str | None) -> None:
        self.text = text
        self.address = ""


@contextlib.contextmanager
def served(*pages: Page) -> Iterator[None]:
    """Serve each page on a port of its own until the block ends."""
    with contextlib.ExitStack() as stack:
        for page in pages:
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), _handler(page)))
            page.address = f"127.0.0.1:{server.server_address[1]}"
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            stack.callback(server.shutdown)
        yield


def _handler(page: Page) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = page.text
            self.send_response(200 if text is not None else 500)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_: object) -> None:
            """Say nothing: what is asked is seen in what comes of it."""

    return Handler
