"""`gpuwarden kmsg`: the table of real lines, streams, broken bytes, and a start that is quick."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gpuwarden.cli import main

TABLE = Path(__file__).parents[1] / "data" / "kernel_log_lines.tsv"
XID_79 = "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python3, GPU has fallen off the bus."
COLUMNS = ["line_number", "kind", "code", "pci", "pid", "meaning", "advice"]


def kmsg(content: bytes, *arguments: str) -> list[dict[str, Any]]:
    """Return the objects the command prints for this standard input."""
    result = CliRunner().invoke(main, ["kmsg", *arguments], input=content)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def labelled_lines() -> list[dict[str, str]]:
    """Return the table of real lines, each with what it must be taken for."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def expected(number: int, row: dict[str, str]) -> tuple[Any, ...]:
    """Return the columns that the table labels, as the command prints them."""
    code, pid = (int(row[key]) if row[key] else None for key in ("expected_code", "pid"))
    return (number, row["expected_kind"], code, row["expected_pci"] or None, pid)


def test_every_real_line_is_classified_as_labelled() -> None:
    """All 231 lines in one log: recognised ones with number, kind, code, address and pid; the others print nothing."""
    rows = labelled_lines()
    assert len(rows) == 231
    wanted = [expected(number, row) for number, row in enumerate(rows, 1) if row["expected_kind"] != "none"]
    found = kmsg("\n".join(row["line"] for row in rows).encode())
    assert [tuple(each[name] for name in COLUMNS[:5]) for each in found] == wanted


def test_an_object_has_exactly_the_promised_fields_and_words_for_a_person() -> None:
    """The seven columns, in order; meaning and advice are never empty."""
    (found,) = kmsg(f"{XID_79}\n".encode())
    assert list(found) == COLUMNS
    assert (found["code"], found["pci"], found["pid"]) == (79, "0000:3b:00", 1234)
    assert "PCIe" in found["meaning"]
    assert "reboot" in found["advice"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xff\xfe\x00\x80" + b"\n" + XID_79.encode() + b"\n", id="not-utf8-before"),
        pytest.param(b"\n" + XID_79.encode() + b"\xff\xc3\r\n", id="broken-tail-and-crlf"),
        pytest.param(b"\x00\n" + XID_79.encode(), id="no-newline-at-the-end"),
        pytest.param(b"x" * 3_000_000 + b"\n" + XID_79.encode() + b"\n", id="a-line-without-end"),
        pytest.param(b" SUBSYSTEM=pci\n4,7,99,-;" + XID_79.encode() + b"\n DEVICE=+pci:0000:3b:00.0\n", id="raw"),
    ],
)
def test_no_bytes_keep_a_line_from_being_read(content: bytes) -> None:
    """Whatever stands around it, the Xid of line 2 is found there."""
    assert [(each["line_number"], each["code"]) for each in kmsg(content)] == [(2, 79)]


def test_a_saved_log_is_read_from_its_file(tmp_path: Path) -> None:
    """FILE instead of standard input; numbers count its lines."""
    log = tmp_path / "kern.log"
    log.write_bytes(b"nothing\nMar  7 07:57:54 gpu-17 kernel: [  450.8] " + XID_79.encode() + b"\n")
    assert [each["line_number"] for each in kmsg(b"", str(log))] == [2]


def test_the_table_reads_like_a_sentence() -> None:
    """`--format table` is for eyes: number, what, where, meaning, advice."""
    result = CliRunner().invoke(main, ["kmsg", "--format", "table"], input=XID_79)
    assert result.stdout.split()[:4] == ["1", "xid", "79", "0000:3b:00"]
    assert ".." not in result.stdout


def test_a_file_that_is_not_there_is_the_users_mistake() -> None:
    """Exit 2 and one line on stderr; nothing on stdout."""
    result = CliRunner().invoke(main, ["kmsg", "/nowhere/kern.log"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "No such file" in result.stderr


def test_lines_are_told_as_they_come() -> None:
    """A followed log is answered line by line, not at its end."""
    with subprocess.Popen(
        [sys.executable, "-m", "gpuwarden.cli", "kmsg"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(XID_79.encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["code"] == 79
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(10) == 0


def test_control_c_ends_it_quietly() -> None:
    """How one stops following a log: exit 0, no word."""
    with subprocess.Popen(
        [sys.executable, "-m", "gpuwarden.cli", "kmsg"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(XID_79.encode() + b"\n")
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    """`kmsg | head -1`: no traceback, no message."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gpuwarden.cli", "kmsg"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(f"{XID_79}\n".encode() * 20_000, timeout=20)
    assert errors == b""
    assert process.returncode == 1


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["kmsg"]], ids=["version", "help", "kmsg"])
def test_what_must_start_quickly_loads_nothing_heavy(arguments: list[str]) -> None:
    """No HTTP library, no NVML, no rich for the commands that run a thousand times."""
    script = (
        "import sys\nfrom gpuwarden.cli import main\n"
        f"main({arguments!r}, standalone_mode=False, prog_name='gpuwarden')\n"
        "heavy = {'aiohttp', 'pynvml', 'rich', 'psutil', 'prometheus_client'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], input=b"", capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_output_fits_any_encoding() -> None:
    """A terminal that only knows ASCII gets escapes, not a crash."""
    line = "Mär 07 07:57:54 kernel: NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=ä, x"
    done = subprocess.run(
        [sys.executable, "-m", "gpuwarden.cli", "kmsg", "--format", "table"],
        input=line.encode(),
        capture_output=True,
        timeout=20,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.real
def test_the_kernels_own_ring_is_read_to_its_end() -> None:
    """`gpuwarden kmsg /dev/kmsg` ends by itself; a line written there is found, once."""
    mark = f"NVRM: Xid (PCI:0000:3b:00): 79, pid={os.getpid()}, name=drill, from the tests"
    Path("/dev/kmsg").write_text(f"<4>{mark}\n", encoding="ascii")
    done = subprocess.run(
        [sys.executable, "-m", "gpuwarden.cli", "kmsg", "/dev/kmsg"], capture_output=True, timeout=30, check=True
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["pid"] for each in found].count(os.getpid()) == 1


PEER = "NVRM: Xid (PCI:0008:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x00000000 0x0 0x0 0x0 0x0)"


@pytest.mark.parametrize(
    ("before", "arguments", "peer"),
    [
        pytest.param("", (), True, id="nobody-knows-and-one-layout-fits"),
        pytest.param("", ("--driver", "570.124.06"), True, id="told-old"),
        pytest.param("", ("--driver", "580.82.07"), False, id="told-new"),
        pytest.param(
            "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (root@host)\n",
            ("--driver", "580.82.07"),
            True,
            id="the-log-says-it-itself",
        ),
        pytest.param(
            "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  590.48.01  Mon Dec 8\n", (), False, id="the-log-says-new"
        ),
    ],
)
def test_the_words_of_an_nvlink5_line_are_read_as_its_driver_wrote_them(
    before: str, arguments: tuple[str, ...], peer: bool
) -> None:
    """A peer's fault is the peer's; words that the driver cannot have meant so are not read so."""
    found = kmsg((before + PEER).encode(), *arguments)[-1]
    assert ("other end of the link" in found["advice"]) is peer
