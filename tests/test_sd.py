"""sd_notify: what systemd hears, and that nothing happens without it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gpuwarden.sd import Notifier, listening_sockets


def test_fields_arrive_as_one_datagram(tmp_path: Path) -> None:
    """One message per call, a field a line."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(1)
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).send(READY="1", STATUS="8 GPUs")
        assert manager.recv(4096) == b"READY=1\nSTATUS=8 GPUs"


def test_a_deaf_manager_is_no_error(tmp_path: Path) -> None:
    """A socket that is gone does not disturb the daemon."""
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).send(WATCHDOG="1")
    assert Notifier({}).watchdog_seconds is None


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        pytest.param({"WATCHDOG_USEC": "30000000"}, 30.0, id="no-pid-means-us"),
        pytest.param({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, 2.0, id="our-pid"),
        pytest.param({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, None, id="another-process"),
        pytest.param({"WATCHDOG_USEC": "often"}, None, id="garbage"),
    ],
)
def test_the_watchdog_period(environ: dict[str, str], seconds: float | None) -> None:
    """The period counts only when it is meant for this process."""
    assert Notifier(environ).watchdog_seconds == seconds


def test_sockets_are_taken_over_only_where_they_are_meant_for_this_process() -> None:
    """What a parent was handed is inherited in the environment, and is not ours."""
    assert listening_sockets({"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1"}) == []
    assert listening_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}) == []
    assert listening_sockets({}) == []
