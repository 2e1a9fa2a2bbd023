"""A daemon that asks a real Prometheus: the stop query stops it, lets go of it, and stops it again by its absence."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from support.daemonproc import DaemonProcess, wait_for
from support.pages import Page, served
from support.prometheus import Prometheus


@pytest.mark.real
def test_the_stop_query_is_seen_in_the_metrics(tmp_path: Path) -> None:
    """One switch for all hosts, in the same metric as the stop files; the fleet is asked beside it."""
    page = Page("fleet_stop 0\n")
    with served(page):
        scrape = [{"job_name": "gpuwarden", "static_configs": [{"targets": [page.address]}]}]
        configuration = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": scrape}
        (tmp_path / "prometheus.yml").write_bytes(msgspec.json.encode(configuration))
        with Prometheus(tmp_path) as prometheus:
            config = f'[guards]\nstop_query = "fleet_stop"\n[budget]\nprometheus_url = "{prometheus.url}"'
            with DaemonProcess(tmp_path / "host", "--sim", "rtx4090x1", config=config) as daemon:

                def stopped() -> float | None:
                    return daemon.scrape().value("gpuwarden_stopped")

                wait_for(lambda: stopped() == 0, 30, "an answer that lets go")
                page.text = "fleet_stop 1\n"
                wait_for(lambda: stopped() == 1, 30, "a stop")
                page.text = "fleet_stop 0\n"
                wait_for(lambda: stopped() == 0, 30, "the end of the stop")
                prometheus.__exit__()
                wait_for(lambda: stopped() == 1, 30, "a stop for want of an answer")
                assert '"event": "fleet.' in daemon.log.read_text(encoding="utf-8")
