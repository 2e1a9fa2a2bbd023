"""The operator's own figure, from the configuration to the metrics of a daemon."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from support.daemonproc import DaemonProcess, wait_for


class _Work(BaseHTTPRequestHandler):
    """The operator's own endpoint: frames a second of two GPUs."""

    def do_GET(self) -> None:
        body = b'{"fps": [29.5, 31.25]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_the_operator_s_own_figure_is_shown_and_goes_with_its_endpoint(tmp_path: Path) -> None:
    """`[workload]` from the file to /metrics; what is no longer told is no longer shown."""
    family = "gpuwarden_workload_throughput"
    with HTTPServer(("127.0.0.1", 0), _Work) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        config = (
            "[poll]\nfast_seconds = 0.5\nnormal_seconds = 0.5\ndeadline_seconds = 1.0\n"
            f'[workload]\nthroughput_url = "http://127.0.0.1:{server.server_port}/"\nthroughput_metric = "fps"\n'
        )
        with DaemonProcess(tmp_path, "--sim", "rtx4090x2", config=config) as running:
            wait_for(lambda: len(running.scrape().values(family, metric="fps")) == 2, 10, "two figures")
            assert running.scrape().values(family, gpu="1") == [31.25]
            server.shutdown()
            server.server_close()
            wait_for(lambda: not running.scrape().values(family), 10, "figures to go")
            text = running.log.read_text(encoding="utf-8")
            assert text.count("throughput.unusable") == 1
