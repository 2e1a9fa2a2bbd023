"""A small fleet that goes wrong: simulated hosts under real daemons, scraped by a real Prometheus every second."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from support.daemonproc import DaemonProcess
from support.prometheus import Prometheus, free_port
from support.rules import PROMETHEUS, RULES

SCENARIOS = Path(__file__).parents[1] / "data" / "scenarios"
_WORST_SECONDS = 90.0  # everything that goes wrong has gone wrong well before that


class Host(NamedTuple):
    """One host of the fleet: the labels its target carries, and the scenario it lives through."""

    host: str
    room: str
    scenario: str


SMALL = (Host("gpu-01", "hall-a", "board"), Host("gpu-02", "hall-a", "a100x2"), Host("rig-07", "hall-b", "rig"))
GONE = "gpu-09"
"""A host that is in service discovery and does not answer."""
OFTEN = "[poll]\nnormal_seconds = 2.0\nslow_seconds = 5.0\n[load]\nsettle_seconds = 5.0"
"""So that a test need not wait a minute for what is read once a minute."""
LARGE = (
    *SMALL,
    Host("gpu-03", "hall-a", "healthy"),
    Host("rig-08", "hall-b", "rig"),
)


class Lab(NamedTuple):
    """What a test asks: the Prometheus, the daemons by host, and since when they run."""

    prometheus: Prometheus
    daemons: dict[str, DaemonProcess]
    since: float

    def patience(self) -> float:
        """Return how many seconds more something may take that all of this hour should show; never less than two."""
        return max(2.0, self.since + _WORST_SECONDS - time.time())


@contextlib.contextmanager
def lab(directory: Path, hosts: tuple[Host, ...] = SMALL) -> Iterator[Lab]:
    """Run the hosts and the Prometheus until the block ends. `directory` must be empty."""
    with contextlib.ExitStack() as stack:
        daemons = {}
        for host in hosts:
            scenario = SCENARIOS / f"{host.scenario}.toml"
            spec = str(scenario) if scenario.exists() else host.scenario
            daemons[host.host] = stack.enter_context(DaemonProcess(directory / host.host, "--sim", spec, config=OFTEN))
        for name in RULES:
            shutil.copy(PROMETHEUS / name, directory)
        targets = [
            {
                "targets": [daemons[host.host].url.removeprefix("http://")],
                "labels": {"cluster": "lab", "room": host.room, "host": host.host},
            }
            for host in hosts
        ]
        targets.append(
            {
                "targets": [f"127.0.0.1:{free_port()}"],  # nobody listens there
                "labels": {"cluster": "lab", "room": "hall-a", "host": GONE},
            }
        )
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": list(RULES),
            "scrape_configs": [{"job_name": "gpuwarden", "static_configs": targets}],
        }
        (directory / "prometheus.yml").write_bytes(msgspec.json.encode(configuration))
        yield Lab(stack.enter_context(Prometheus(directory)), daemons, time.time())
