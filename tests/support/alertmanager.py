"""The real Alertmanager, as tests start and ask it."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from support.prometheus import free_port


class Alertmanager:
    """An Alertmanager on `directory`/alertmanager.yml, killed when the block ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Alertmanager:
        with (self.directory / "alertmanager.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["prometheus-alertmanager", f"--config.file={self.directory}/alertmanager.yml",
                 f"--storage.path={self.directory}/am", f"--web.listen-address={self.address}",
                 "--cluster.listen-address="],
                stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(5)

    def ask(self, path: str) -> Any:
        """Return an answer of the API; None while it does not serve yet."""
        try:
            with urllib.request.urlopen(f"http://{self.address}/api/v2/{path}", timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return None

    def post(self, alerts: list[dict[str, Any]]) -> None:
        """Hand alerts in, as Prometheus does."""
        request = urllib.request.Request(
            f"http://{self.address}/api/v2/alerts",
            data=json.dumps(alerts).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=5).close()
