"""Heat leases in real time: real processes on a simulated rig, and its settings when one of them dies or hangs."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuwarden.sim import client
from support.daemonproc import DaemonProcess, wait_for
from support.heatrig import HeatRig

pytestmark = pytest.mark.real

CONFIG = 'mode = "enforce"\n[thermal]\ngovernor = true\ntarget_celsius = 56.0\n'
ROOM = 'version = 1\nproduct = "rtx4090x2"\nambient_celsius = 45.0\nseconds = 100000.0\n[[load]]\npoint = "busy"\n'
LIMIT = 450.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[HeatRig]:
    """Two busy cards in a room of 45 C."""
    room = tmp_path / "room.toml"
    room.write_text(ROOM, encoding="utf-8")
    with HeatRig(tmp_path / "node", str(room), speed=5.0) as node:
        yield node


@pytest.fixture
def daemon(tmp_path: Path, rig: HeatRig) -> Iterator[DaemonProcess]:
    """The daemon on it, once it has fans and power limits on loan. Whoever holds them is ended with the test."""
    with DaemonProcess(tmp_path / "d", "--sim", str(rig.socket), config=CONFIG) as started:
        wait_for(lambda: rig.manual(0) and rig.manual(1), 30, "fans at a speed of ours")
        wait_for(lambda: rig.watts(0) < LIMIT and rig.watts(1) < LIMIT, 60, "power limits of ours")
        yield started
    holder = holder_of(started)
    if holder:
        os.kill(holder, signal.SIGKILL)


def holder_of(daemon: DaemonProcess) -> int:
    """Return the pid of the process that holds the leases."""
    listing = subprocess.run(
        ["ps", "-eww", "-o", "pid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    found = [
        line.split()[0]
        for line in listing.splitlines()
        if "actuators.leaseholder" in line and str(daemon.runtime) in line and line.split()[1][0] != "Z"
    ]
    return int(found[0]) if found else 0


def automatic(rig: HeatRig) -> bool:
    return not rig.manual(0) and not rig.manual(1)


def restored(daemon: DaemonProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpuwarden.cli", "restore", "--config", str(daemon.config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_killed_daemon_leaves_fans_to_the_driver_within_30_s_and_caps_as_they_are(
    rig: HeatRig, daemon: DaemonProcess
) -> None:
    """And the next one adopts what is still on loan: in a room this hot no cap is raised on the way."""
    assert daemon.scrape().value("gpuwarden_settings_leased", setting="fan") == 2
    daemon.stop(signal.SIGKILL)
    caps = (rig.watts(0), rig.watts(1))
    wait_for(lambda: automatic(rig), 30, "fans back to the driver")
    assert (rig.watts(0), rig.watts(1)) == caps
    daemon.start()
    seen = [caps]

    def adopted() -> bool:
        seen.append((rig.watts(0), rig.watts(1)))
        return daemon.scrape().value("gpuwarden_settings_leased", setting="power") == 2 and rig.manual(0)

    wait_for(adopted, 30, "the leases to be adopted and the fans to be taken again")
    for before, after in itertools.pairwise(seen):
        assert all(later <= earlier for earlier, later in zip(before, after, strict=True))


def test_a_daemon_that_hangs_leaves_fans_to_the_driver_within_30_s(rig: HeatRig, daemon: DaemonProcess) -> None:
    """SIGSTOP: its connection is open, and renews nothing."""
    os.kill(daemon.pid, signal.SIGSTOP)
    caps = (rig.watts(0), rig.watts(1))
    try:
        wait_for(lambda: automatic(rig), 30, "fans back to the driver")
        assert (rig.watts(0), rig.watts(1)) == caps
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    wait_for(lambda: rig.manual(0), 30, "the fans to be taken again")


def test_a_worker_that_hangs_leaves_fans_to_the_driver_within_30_s(rig: HeatRig, daemon: DaemonProcess) -> None:
    """Every card sits in a call that does not return, the replaced worker's too: no fresh temperature, no renewal."""
    caps = (rig.watts(0), rig.watts(1))
    for number in (0, 1):
        client.inject(rig.socket, "hung", number, call="PowerUsage")
    wait_for(lambda: automatic(rig), 30, "fans back to the driver")
    assert daemon.process is not None
    assert daemon.process.poll() is None
    assert (rig.watts(0), rig.watts(1)) == caps
    client.inject(rig.socket, "hung", clear=True)
    wait_for(lambda: rig.manual(0) and rig.manual(1), 40, "the fans to be taken again")


def test_restore_needs_no_daemon(rig: HeatRig, daemon: DaemonProcess) -> None:
    """With a holder it is asked, without one the ledger is enough; what another has set is left alone."""
    daemon.stop(signal.SIGKILL)
    caps = (rig.watts(0), rig.watts(1))
    assert restored(daemon).returncode == 0
    assert automatic(rig)
    assert (rig.watts(0), rig.watts(1)) == caps
    holder = holder_of(daemon)
    assert holder
    os.kill(holder, signal.SIGKILL)
    wait_for(lambda: not holder_of(daemon), 5, "the holder's end")
    rig.set(1, "nvmlDeviceSetPowerManagementLimit", 222_000)
    answer = restored(daemon, "--all")
    assert answer.returncode == 0, answer.stderr
    assert rig.watts(0) == LIMIT
    assert rig.watts(1) == 222.0
    assert restored(daemon, "--all").returncode == 0
