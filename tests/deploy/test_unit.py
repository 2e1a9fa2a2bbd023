"""The systemd unit as the real systemd reads it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
UNIT = UNITS / "gpuwarden.service"


@pytest.mark.real
@pytest.mark.parametrize("name", ["gpuwarden.service", "gpuwarden-actuator.service", "gpuwarden-actuator.socket"])
def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path, name: str) -> None:
    """`systemd-analyze verify` is clean, with a program in place of the installed one."""
    for unit in UNITS.glob("*.s*t"):
        (tmp_path / unit.name).write_text(unit.read_text())
    for unit in UNITS.glob("*.service"):
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/bin/gpuwarden", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / name)], capture_output=True, text=True, timeout=60, check=False
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "gpuwarden" in line]
    assert said == []
    assert done.returncode == 0


@pytest.mark.parametrize(
    "line",
    [
        "Type=notify", "KillMode=mixed", "TimeoutStopSec=5s", "RuntimeDirectoryPreserve=yes",
        "DeviceAllow=char-195 rw", "DeviceAllow=/dev/kmsg r",
    ],
)  # fmt: skip
def test_what_operation_depends_on_is_in_the_unit(line: str) -> None:
    """Each of these has its reason in a comment; without it a stuck driver would hold up a stop or a restart."""
    assert line in UNIT.read_text().splitlines()


def test_nothing_hides_the_kernel_log_or_later_device_nodes() -> None:
    """These would take /dev/kmsg or a card that appears after the start away from us."""
    lines = UNIT.read_text().splitlines()
    assert not [line for line in lines if line.startswith(("PrivateDevices=", "ProtectKernelLogs="))]
