"""From a GPU's fault to a page, on the real Prometheus and the real Alertmanager."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.alertmanager import Alertmanager
from support.daemonproc import DaemonProcess, wait_for
from support.prometheus import Prometheus
from support.rules import RULES

DEPLOY = Path(__file__).parents[2] / "deploy"
pytestmark = pytest.mark.real


class Pager:
    """A webhook that keeps what Alertmanager sends."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        pager = self

        class Handler(BaseHTTPRequestHandler):
            """Takes POSTs."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                pager.alerts += json.loads(body)["alerts"]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def firing(self, kind: str) -> list[dict[str, Any]]:
        return [alert for alert in self.alerts if alert["status"] == "firing" and alert["labels"].get("kind") == kind]


@pytest.fixture
def pager(tmp_path: Path) -> Iterator[Pager]:
    """The webhook, closed afterwards."""
    made = Pager()
    yield made
    made.server.shutdown()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    """Eight simulated H100."""
    with DaemonProcess(tmp_path / "agent", "--sim", "h100x8") as running:
        wait_for(lambda: len(running.scrape().values("gpuwarden_gpu_power_watts")) == 8, 10, "eight GPUs")
        yield running


@pytest.fixture
def servers(tmp_path: Path, daemon: DaemonProcess, pager: Pager) -> Iterator[Prometheus]:
    """Both servers on the shipped files; only addresses and waiting times are made to fit a test."""
    text = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text()
    text = text.replace("http://localhost:9099/page", f"http://127.0.0.1:{pager.server.server_port}/page")
    (tmp_path / "alertmanager.yml").write_text(
        text.replace("group_wait: 10s", "group_wait: 1s").replace("group_interval: 1m", "group_interval: 2s")
    )
    with Alertmanager(tmp_path) as alertmanager:
        text = (DEPLOY / "prometheus" / "prometheus.yml").read_text().replace("15s", "1s").replace("5s", "1s")
        text = text.replace("localhost:9878", daemon.url.removeprefix("http://"))
        (tmp_path / "prometheus.yml").write_text(text.replace("localhost:9093", alertmanager.address))
        for name in RULES:
            shutil.copy(DEPLOY / "prometheus" / name, tmp_path)
        with Prometheus(tmp_path) as prometheus:
            yield prometheus


def test_a_fallen_gpu_and_a_hot_one_page_and_the_page_outlives_the_host(
    daemon: DaemonProcess, pager: Pager, servers: Prometheus
) -> None:
    """Named by slot and serial, with a runbook; when the host goes, the page is not resolved."""
    daemon.inject("fallen_off", 3)
    daemon.inject("heat", 5, seconds=9.0)
    fallen = wait_for(lambda: pager.firing("xid.xid_79"), 60, "the page for Xid 79")[0]
    assert fallen["labels"]["gpu"] == "3"
    assert fallen["labels"]["serial"]
    assert fallen["labels"]["slot"]
    assert fallen["annotations"]["runbook_url"].endswith("/xid.xid_79.md")
    lost = wait_for(lambda: pager.firing("presence.gpu_lost"), 30, "the page for the lost GPU")[0]
    assert (lost["labels"]["serial"], lost["labels"]["slot"]) == (fallen["labels"]["serial"], fallen["labels"]["slot"])
    assert fallen["labels"]["serial"] in lost["annotations"]["summary"] + lost["annotations"]["description"]
    hot = wait_for(lambda: pager.firing("thermal.core_over_limit"), 90, "the page for the hot GPU")[0]
    assert hot["labels"]["gpu"] == "5"
    daemon.stop()
    wait_for(lambda: not servers.query("gpuwarden_finding_active"), 30, "the series to go")
    firing = [alert["labels"] for alert in servers.ask("alerts")["alerts"] if alert["state"] == "firing"]
    assert {("xid.xid_79", "3"), ("thermal.core_over_limit", "5")} <= {(a.get("kind"), a.get("gpu")) for a in firing}
    assert [alert for alert in pager.alerts if alert["status"] == "resolved"] == []
