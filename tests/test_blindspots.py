"""What cannot be seen is said in one line each, with its remedy; what can be seen is not mentioned."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpuwarden.blindspots import blind_spots


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host on which everything can be seen."""
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kmsg").touch()
    (tmp_path / "dev/nvidia0").touch()
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/pid").symlink_to("pid:[4026531836]")
    (tmp_path / "proc/1").mkdir()
    (tmp_path / "proc/1/stat").touch()
    return tmp_path


def look(host: Path) -> tuple[str, ...]:
    return blind_spots(host / "dev/kmsg", sysfs=host / "sys", devices=host / "dev", proc=host / "proc")


def test_where_all_is_seen_nothing_is_said(host: Path) -> None:
    """No line is also a statement."""
    assert look(host) == ()


def test_a_missing_kernel_log_is_one_line_with_its_remedy(host: Path) -> None:
    """In a container without /dev/kmsg."""
    (host / "dev/kmsg").unlink()
    (line,) = look(host)
    assert "does not exist" in line
    assert "--kmsg" in line


def test_a_missing_pci_bus_is_one_line(host: Path) -> None:
    """In a container without /sys."""
    (host / "sys/bus/pci/devices").rmdir()
    (line,) = look(host)
    assert line.startswith("No PCI bus")


def test_another_pid_namespace_is_one_line_with_its_remedy(host: Path) -> None:
    """In a container without hostPID, and where /proc hides what is not ours."""
    (host / "proc/1/stat").unlink()
    assert "hidepid" in look(host)[0]
    (host / "proc/self/ns/pid").unlink()
    (host / "proc/self/ns/pid").symlink_to("pid:[4026532000]")
    (line,) = look(host)
    assert "hostPID" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_an_ordinary_user_is_told_about_each_closed_door(host: Path) -> None:
    """As nobody, with device nodes and log of root's: two lines, each naming what to do."""
    for name in ("kmsg", "nvidia0"):
        (host / "dev" / name).chmod(0o600)
    for folder in (host, host.parent, host.parent.parent):
        folder.chmod(0o755)
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        lines = look(host)
        said = len(lines) == 2 and "CAP_SYSLOG" in lines[0] and "nvidia0" in lines[1]
        os._exit(0 if said else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
