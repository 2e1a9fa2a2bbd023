"""The real Prometheus, as tests start and ask it."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import Any


def free_port() -> int:
    """Return a TCP port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Prometheus:
    """A Prometheus on a configuration in `directory`/prometheus.yml, killed when the block ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prometheus:
        with (self.directory / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["prometheus", f"--config.file={self.directory}/prometheus.yml",
                 f"--storage.tsdb.path={self.directory}/db", f"--web.listen-address=127.0.0.1:{self.port}"],
                stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(5)

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the API; [] while it does not serve yet. A refused query fails the test."""
        try:
            with urllib.request.urlopen(
                f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10
            ) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
                return []
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        except OSError:
            return []

    def query(self, expression: str) -> list[Any]:
        """Return the series of an instant query."""
        found = self.ask("query", query=expression)
        return list(found["result"]) if found else []

    def query_range(self, expression: str, start: float, end: float, step: float = 1.0) -> list[Any]:
        """Return the series of a range query."""
        found = self.ask("query_range", query=expression, start=str(start), end=str(end), step=str(step))
        return list(found["result"]) if found else []
