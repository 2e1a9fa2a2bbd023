"""`gpuwarden inject`: what reaches the daemon, and the line that goes into a kernel log after a warning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuwarden.cli import drill_lines
from gpuwarden.errors import InputError
from gpuwarden.model.kernel_log import KmsgRecord, parse_line, parse_record
from gpuwarden.sim.faults import FAULTS
from support.rig import Rig


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        pytest.param(["xid79", "--gpu", "3"], {"fault": "xid", "gpu": 3, "options": {"code": 79}}, id="xid-shorthand"),
        pytest.param(["XID-94", "--gpu", "0"], {"fault": "xid", "gpu": 0, "options": {"code": 94}}, id="other-writing"),
        pytest.param(["xid", "--code", "31"], {"fault": "xid", "gpu": None, "options": {"code": 31}}, id="code"),
        pytest.param(["hot-room"], {"fault": "hot_room", "gpu": None, "options": {}}, id="of-the-node"),
        pytest.param(
            ["ecc", "--gpu", "1", "--set", "per_second=2.5", "--set", "memory=sram", "--set", "uncorrected=1"],
            {"fault": "ecc", "gpu": 1, "options": {"per_second": 2.5, "memory": "sram", "uncorrected": 1}},
            id="options",
        ),
    ],
)
def test_a_fault_reaches_the_daemon(live: Rig, arguments: list[str], body: dict[str, Any]) -> None:
    """Name, GPU and options, as the verb takes them."""
    result = live.run("inject", *arguments)
    assert result.exit_code == 0, result.output
    assert live.asked == [("inject", {"clear": False, **body})]
    assert "(a drill)" in result.stdout


def test_a_fault_is_cleared(live: Rig) -> None:
    """The same request with clear set."""
    assert live.run("inject", "fan", "--gpu", "1", "--clear").stdout == "cleared: fan on GPU 1 (a drill)\n"
    assert live.asked[0][1]["clear"] is True


@pytest.mark.parametrize(
    "arguments", [[], ["ecc", "--set", "x"], ["xid79", "--kmsg", "--clear"], ["fan", "--gpu", "-1"]]
)
def test_what_makes_no_sense_is_a_usage_error(live: Rig, arguments: list[str]) -> None:
    """Exit 2, and nothing is asked of anybody."""
    assert live.run("inject", *arguments).exit_code == 2
    assert live.asked == []


def test_the_faults_are_listed(rig: Rig) -> None:
    """Every fault of the simulator with its options, without a daemon."""
    result = rig.run("inject", "--list")
    assert all(f"{name} " in result.stdout for name in FAULTS)
    assert [row["name"] for row in rig.json("inject", "--list")["faults"]] == list(FAULTS)


@pytest.mark.parametrize("name", drill_lines.LINES)
def test_every_line_is_one_that_is_recognised(name: str) -> None:
    """A drill that no reader recognises would prove nothing."""
    found = parse_line(drill_lines.line_of(name, "0000:3b:00", {}))
    assert found is not None
    assert found.kind.value == name
    assert found.bdf == (None if name == "hung_task" else "0000:3b:00")


@pytest.mark.parametrize(
    ("name", "options"), [("xid", {"code": "x"}), ("xid", {"pid": 1}), ("aer", {"code": 3}), ("xid", {"code": -1})]
)
def test_a_line_that_no_kernel_writes_is_refused(name: str, options: dict[str, Any]) -> None:
    """Before anything is written."""
    with pytest.raises(InputError):
        drill_lines.line_of(name, "0000:3b:00", options)


def test_a_real_line_is_written_only_after_a_yes(live: Rig) -> None:
    """The warning names who else reads it; without an answer nothing is written and the exit code is 1."""
    result = live.run("inject", "xid79", "--gpu", "0", "--kmsg", input="n\n")
    assert result.exit_code == 1
    assert "NVRM: Xid (PCI:0000:1b:00): 79," in result.stderr
    assert "Other agents on this host read it too" in result.stderr
    assert live.asked == []


def test_a_gpu_that_is_not_there_has_no_address(live: Rig) -> None:
    """Refused with what there is; --pci is the way round."""
    result = live.run("inject", "xid79", "--gpu", "11", "--kmsg", "--yes")
    assert result.exit_code == 2
    assert "7 (0000:22:00.0)" in result.stderr
    assert live.run("inject", "fan", "--gpu", "1", "--kmsg", "--yes").exit_code == 2


def test_a_line_is_written_as_a_process_warning(tmp_path: Path) -> None:
    """One write, level 4, no facility of its own: the kernel makes it facility user."""
    log = tmp_path / "kmsg"
    log.touch()
    drill_lines.write("NVRM: Xid (PCI:0000:3b:00): 79, x", log)
    assert log.read_bytes() == b"<4>NVRM: Xid (PCI:0000:3b:00): 79, x\n"
    with pytest.raises(InputError, match="cannot write"):
        drill_lines.write("x", tmp_path / "none" / "kmsg")


def records() -> Iterator[KmsgRecord]:
    """Yield what the kernel's ring holds."""
    descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0):
        while True:
            try:
                yield parse_record(os.read(descriptor, 8192))
            except BlockingIOError:
                return


@pytest.mark.real
def test_a_real_line_arrives_in_the_kernel_log_as_a_users(rig: Rig) -> None:
    """Written into /dev/kmsg and read back with a facility that is not the kernel's."""
    mark = str(100_000 + os.getpid())
    result = rig.run("inject", f"xid{mark}", "--pci", "0000:3b:00.0", "--kmsg", "--yes", "--format", "json")
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout)["line"]
    assert [each.facility for each in records() if each.text == line] == [1]
    done = subprocess.run(
        [sys.executable, "-m", "gpuwarden.cli", "kmsg", "/dev/kmsg"], capture_output=True, timeout=30, check=True
    )
    assert [json.loads(each)["code"] for each in done.stdout.splitlines()].count(int(mark)) == 1
