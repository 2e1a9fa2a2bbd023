"""A daemon in a process of its own, as an operator starts it, and what a test asks of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from gpuwarden.sim import client

_Seen = TypeVar("_Seen")


def wait_for(seen: Callable[[], _Seen], within: float, what: str) -> _Seen:
    """Return the first true result of `seen`; fail with `what` when there is none within `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        found = seen()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.02)  # the pause between two looks, not a guess at how long something takes


def bound(seconds: float) -> float:
    """Return what a promise of so many seconds comes to here: it holds where the machine is not busy with others."""
    return seconds if os.getloadavg()[0] < (os.cpu_count() or 1) else 2.0 * seconds


Series = dict[tuple[tuple[str, str], ...], float]


class Scrape:
    """One answer of /metrics, parsed: families by sample name, series by their labels."""

    def __init__(self, text: str, seconds: float) -> None:
        self.seconds = seconds
        self.samples: dict[str, Series] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value

    def values(self, name: str, **labels: str) -> list[float]:
        """Return the values of all series of `name` that carry `labels`."""
        wanted = set(labels.items())
        return [value for have, value in self.samples.get(name, {}).items() if wanted <= set(have)]

    def value(self, name: str, **labels: str) -> float | None:
        """Return the one value of `name` with `labels`, or None where there is no such series."""
        found = self.values(name, **labels)
        assert len(found) <= 1, f"{name}{labels} is not one series: {found}"
        return found[0] if found else None


class DaemonProcess:
    """`gpuwarden run` with its own state and runtime directories on a free port."""

    def __init__(
        self, directory: Path, *arguments: str, environ: Mapping[str, str] | None = None, config: str = ""
    ) -> None:
        self.directory = directory
        self.runtime = directory / "run"
        directory.mkdir(parents=True, exist_ok=True)
        self.config = directory / "config.toml"
        self.config.write_text(
            f'state_dir = "{directory / "state"}"\nruntime_dir = "{self.runtime}"\n{config}\n', encoding="utf-8"
        )
        self._arguments = arguments
        self._environ = {**os.environ, **(environ or {})}
        self.log = directory / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self, within: float = 10.0) -> DaemonProcess:
        """Start it and wait for the address it serves on."""
        already = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "gpuwarden.cli", "run", "--config", str(self.config),
                    "--web.listen-address", "127.0.0.1:0", "--log.format", "json", *self._arguments,
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environ,
            )  # fmt: skip
        self.url = wait_for(lambda: self._address(already), within, f"an address in {self.log}")
        return self

    def _address(self, already: int) -> str:
        assert self.process is not None
        text = self.log.read_bytes()[already:].decode()
        assert self.process.poll() is None, f"the daemon ended with {self.process.returncode}:\n{text}"
        found = re.search(r"http://127\.0\.0\.1:\d+", text)
        return found.group() if found else ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def get(self, path: str, timeout: float = 5.0) -> tuple[int, bytes]:
        """Return status and body of one GET."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def scrape(self) -> Scrape:
        """Scrape once; the time it took is in the answer."""
        begun = time.monotonic()
        status, body = self.get("/metrics")
        seconds = time.monotonic() - begun
        assert status == 200
        return Scrape(body.decode(), seconds)

    def json(self, path: str) -> Any:
        """Return a JSON answer."""
        status, body = self.get(path)
        assert status == 200, body
        return msgspec.json.decode(body)

    def inject(self, fault: str, gpu: int | None = None, **options: Any) -> None:
        """Put a fault into the simulated node."""
        client.inject(self.runtime / "sim" / "sim.sock", fault, gpu, **options)

    def findings(self, kind: str) -> list[dict[str, str]]:
        """Return the labels of the active findings of a kind."""
        active = self.scrape().samples.get("gpuwarden_finding_active", {})
        return [dict(labels) for labels, value in active.items() if value == 1 and ("kind", kind) in labels]

    def worker_pid(self) -> int:
        """Return the pid of the NVML worker: the child that is no simulator."""
        children = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(self.pid)], capture_output=True, text=True, check=False
        )
        found = [
            line.split()[0] for line in children.stdout.splitlines() if ".worker" in line and "defunct" not in line
        ]
        return int(found[0]) if found else 0

    def stop(self, number: signal.Signals = signal.SIGTERM, within: float = 8.0) -> float:
        """Send a signal and return the seconds until the process was gone."""
        assert self.process is not None
        begun = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(within)
        return time.monotonic() - begun

    def __enter__(self) -> DaemonProcess:
        return self if self.process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
