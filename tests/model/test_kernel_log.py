"""Kernel-log lines: the table of real lines, every prefix, and no way to forge or to crash."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwarden.model.kernel_log import may_matter, parse_line, parse_record, sequence_of
from gpuwarden.model.kernel_message import MAX_TEXT, parse_message
from gpuwarden.model.observation import LineKind

TABLE = Path(__file__).parents[1] / "data" / "kernel_log_lines.tsv"
XID_79 = "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python3, GPU has fallen off the bus."


def labelled_lines() -> list[dict[str, str]]:
    """Return the table of real lines, each with what it must be taken for."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


LABELLED = labelled_lines()


def test_the_table_is_whole() -> None:
    """All 231 lines are there; a lost line would be a lost test."""
    assert len(LABELLED) == 231


@pytest.mark.parametrize("row", LABELLED, ids=[f"{number + 2}" for number in range(len(LABELLED))])
def test_every_real_line_is_taken_for_what_it_is(row: dict[str, str]) -> None:
    """Kind, code, PCI address and pid of each line of the table, as labelled."""
    found = parse_line(row["line"])
    if row["expected_kind"] == "none":
        assert found is None
        return
    assert found is not None
    assert found.kind.value == row["expected_kind"]
    assert found.code == (int(row["expected_code"]) if row["expected_code"] else None)
    assert found.bdf == (row["expected_pci"] or None)
    assert found.pid == (int(row["pid"]) if row["pid"] else None)


def test_no_recognised_message_is_sorted_out_unread() -> None:
    """The cheap filter in front of the parser lets every recognised message through, and few others."""
    texts = {found.text for row in LABELLED if (found := parse_line(row["line"]))}
    assert len(texts) > 150
    assert all(may_matter(b"3,1,1,-,caller=T1;" + text.encode() + b"\n") for text in texts)
    others = [row["line"] for row in LABELLED if row["expected_kind"] == "none"]
    let_through = [line for line in others if may_matter(b"6,1,1,-;" + line.encode())]
    assert len(let_through) < len(others) / 2


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param("", id="bare"),
        pytest.param("[  123.456789] ", id="dmesg"),
        pytest.param("[Sat Oct 12 18:38:44 2024] ", id="dmesg-T"),
        pytest.param("[  123.456789] [ T1946] ", id="dmesg-with-caller"),
        pytest.param("[  +0.000012] ", id="dmesg-d"),
        pytest.param("kern  :warn  : [  123.456789] ", id="dmesg-x"),
        pytest.param("kern  :err   : [Sat Oct 12 18:38:44 2024] ", id="dmesg-x-T"),
        pytest.param("kern  :warn  : 2025-01-21T08:41:30,287197+00:00 ", id="dmesg-x-iso"),
        pytest.param("2025-01-21T08:41:30,287197+00:00 ", id="dmesg-iso"),
        pytest.param("<4>", id="dmesg-r-without-time"),
        pytest.param("<4>[  123.456789] ", id="dmesg-r"),
        pytest.param("Mar  7 07:57:54 gpu-17 kernel: ", id="syslog"),
        pytest.param("Mar  7 07:57:54 gpu-17 kernel: [  450.843497] ", id="syslog-with-time"),
        pytest.param("Mär 07 07:57:54 gpu-17.rack.example.org kernel: ", id="syslog-german"),
        pytest.param("фев 12 00:48:02 kernel: ", id="syslog-russian-without-host"),
        pytest.param("3月 07 07:57:54 gpu-17 kernel: ", id="syslog-japanese"),
        pytest.param("2024-05-01T12:00:00.123456+02:00 gpu-17 kernel: ", id="rsyslog-iso"),
        pytest.param("2024-05-01T12:00:00+0200 gpu-17 kernel: ", id="journal-short-iso"),
        pytest.param("Jan 01 00:00:00.123456 gpu-17 kernel: ", id="journal-short-precise"),
        pytest.param("Wed 2024-01-03 09:01:25 UTC gpu-17 kernel: ", id="journal-short-full"),
        pytest.param("[  123.456789] gpu-17 kernel: ", id="journal-short-monotonic"),
        pytest.param("1700000000.123456 gpu-17 kernel: ", id="journal-short-unix"),
        pytest.param("kernel: ", id="journal-cat"),
        pytest.param("192.0.2.10: kern: warning: [2026-04-22T21:27:51.29163573Z]: ", id="talosctl"),
        pytest.param("4,1227,437812449932,c;", id="raw-record"),
        pytest.param("4,1227,437812449932,-,caller=T1946;", id="raw-record-with-caller"),
    ],
)
def test_every_prefix_is_taken_off(prefix: str) -> None:
    """The same event is read from whatever wrote it down."""
    found = parse_line(prefix + XID_79 + "\n")
    assert found is not None
    assert (found.kind, found.code, found.bdf, found.pid) == (LineKind.XID, 79, "0000:3b:00", 1234)
    assert found.fields == {"name": "python3"}


@pytest.mark.parametrize("message", [XID_79, list(XID_79.encode())], ids=["text", "bytes"])
def test_journal_json_is_read_where_the_kernel_wrote_it(message: object) -> None:
    """`journalctl -o json` works too; what a program logged through the journal is not the kernel's."""
    kernel = parse_line(json.dumps({"_TRANSPORT": "kernel", "MESSAGE": message, "PRIORITY": "3"}))
    assert kernel is not None
    assert kernel.code == 79
    assert parse_line(json.dumps({"_TRANSPORT": "syslog", "MESSAGE": message})) is None
    assert parse_line(json.dumps({"MESSAGE": message})) is None


@pytest.mark.parametrize(
    ("where", "bdf", "extra"),
    [
        pytest.param("PCI:0000:3b:00", "0000:3b:00", {}, id="usual"),
        pytest.param("0000:3b:00", "0000:3b:00", {}, id="without-PCI"),
        pytest.param("PCI:0000:3B:00", "0000:3b:00", {}, id="upper-case"),
        pytest.param("PCI:0018:01:00", "0018:01:00", {}, id="other-domain"),
        pytest.param("PCI:00000000:3b:00", "0000:3b:00", {}, id="eight-digit-domain"),
        pytest.param("PCI:00010000:3b:00", "10000:3b:00", {}, id="wide-domain"),
        pytest.param("PCI:0000:3b:00.0", "0000:3b:00", {}, id="with-function"),
        pytest.param("PCI:0000:3b:00 GPU-I:05", "0000:3b:00", {"gi": "05"}, id="mig-instance"),
        pytest.param("PCI:0000:3b:00 GPU-I:05 GPU-CI:01", "0000:3b:00", {"gi": "05", "ci": "01"}, id="mig-compute"),
        pytest.param("0003:00", None, {}, id="old-bus-device"),
    ],
)
def test_where_an_xid_happened(where: str, bdf: str | None, extra: dict[str, str]) -> None:
    """Every way the driver ever wrote an address; the old short form names no address that could be compared."""
    found = parse_message(f"NVRM: Xid ({where}): 13, Graphics Exception")
    assert found is not None
    assert (found.code, found.bdf, found.fields) == (13, bdf, extra)


@pytest.mark.parametrize(
    ("rest", "fields"),
    [
        pytest.param(
            "154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)",
            {"recovery_from": "0", "recovery_to": "2"},
            id="154-old-label",
        ),
        pytest.param(
            "154, GPU recovery action changed from 0x1 (PF FLR) to 0x0 (None)",
            {"recovery_from": "1", "recovery_to": "0"},
            id="154-new-label-and-recovery",
        ),
        pytest.param(
            "154, GPU recovery action changed from 0x0 (None) to 0x1f (Whatever)",
            {"recovery_from": "0", "recovery_to": "31"},
            id="154-value-of-the-future",
        ),
        pytest.param(
            "45, pid=7, name=a, Ch 00000002 caused by previous Xid 145", {"name": "a", "caused_by": "145"}, id="45"
        ),
        pytest.param("79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", {}, id="unknown-process"),
        pytest.param(
            "149, NETIR_LINK_EVT  Fatal   XC0 i0 Link -1 (0x021425c6 0x00000000)",
            {
                "unit": "NETIR_LINK_EVT",
                "severity": "fatal",
                "xc": "0",
                "instance": "0",
                "link": "-1",
                "words": "0x021425c6 0x00000000",
            },
            id="nvlink5",
        ),
        pytest.param(
            "74, pid=<unknown>, name=<unknown>, NVLink: fatal error detected on link 6(0x10000, 0x0)",
            {"link": "6", "words": "0x10000, 0x0"},
            id="nvlink",
        ),
        pytest.param(
            "119, pid=5, name=gpud, Timeout after 6s of waiting for RPC response from GPU4 GSP! Expected function 76 "
            "(GSP_RM_CONTROL) (0x20803032 0x58c).",
            {"name": "gpud", "rpc_function": "76", "rpc": "GSP_RM_CONTROL"},
            id="gsp",
        ),
    ],
)
def test_what_an_xid_line_holds_beyond_its_number(rest: str, fields: dict[str, str]) -> None:
    """The recovery action is read by value, never by label; causes, links and raw words are kept."""
    found = parse_message(f"NVRM: Xid (PCI:0000:3b:00): {rest}")
    assert found is not None
    assert found.fields == fields


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        pytest.param(
            "nvidia 0000:3b:00.0: AER: PCIe Bus Error: severity=Uncorrected (Non-Fatal), type=Transaction Layer, (ID)",
            {"part": "head", "severity": "nonfatal", "layer": "Transaction Layer"},
            id="device",
        ),
        pytest.param(
            "pcieport 0000:00:01.0: AER: Uncorrectable (Fatal) error message received from 0000:3b:00.0",
            {"part": "announced", "severity": "fatal", "agent": "0000:3b:00"},
            id="port",
        ),
        pytest.param(
            "nvidia 0000:3b:00.0: AER: can't recover (no error_detected callback)", {"part": "detail"}, id="detail"
        ),
    ],
)
def test_aer_lines_say_which_of_them_is_the_event(text: str, fields: dict[str, str]) -> None:
    """One error writes several lines; `part` head is the device's own, with its severity."""
    found = parse_message(text)
    assert found is not None
    assert found.kind is LineKind.AER
    assert found.fields == fields


def test_one_probe_message_of_several_lines_names_the_gpu_it_lost() -> None:
    """A GPU that is gone at probe time has no Xid: the message's first line holds the address, a later one the fact."""
    raw = (
        rb"3,900,1,-;NVRM: The NVIDIA GPU 0000:3b:00.0\x0aNVRM: (PCI ID: 10de:26b5) installed in this system has\x0a"
        rb"NVRM: fallen off the bus and is not responding to commands."
    )
    found = parse_message(parse_record(raw).text)
    assert found is not None
    assert (found.kind, found.bdf) == (LineKind.FALLEN_OFF_BUS, "0000:3b:00")


def test_a_record_is_taken_apart() -> None:
    """Level and facility, escapes, and the KEY=value lines after the message."""
    record = parse_record(
        b"30,17,99,-,caller=T1;a\\x0ab \\x5c \\xc3\\xa9 \\xff\n SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0\n"
    )
    assert (record.priority, record.facility, record.sequence, record.usec) == (6, 3, 17, 99)
    assert record.flags == "-,caller=T1"
    assert record.text == "a\nb \\ é \N{REPLACEMENT CHARACTER}"
    assert record.details == {"SUBSYSTEM": "pci", "DEVICE": "+pci:0000:3b:00.0"}


def test_what_is_no_record_is_never_the_kernels() -> None:
    """Without a readable header there is no facility to trust and no place in the log."""
    record = parse_record(XID_79.encode())
    assert (record.facility, record.sequence, record.text) == (1, None, XID_79)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"INFO: task {XID_79}:77 is fine", id="task-name"),
        pytest.param(f"python3[77]: segfault at 0 ip 0 error 4 in {XID_79}", id="program-name"),
        pytest.param(f"foo: {XID_79}", id="another-module"),
        pytest.param(f"sshd[9]: {XID_79}", id="a-daemons-line"),
        pytest.param(f"x\n{XID_79}", id="second-line"),
        pytest.param("NVRM: Xid PCI:0000:3b:00: 79, GPU has fallen off the bus.", id="not-the-drivers-format"),
        pytest.param("NVRM: Xid (PCI:0000:3b:00): pid=79", id="no-number"),
    ],
)
def test_a_message_begins_where_it_begins(text: str) -> None:
    """In a raw record nothing stands before the message: an Xid in the middle of one is somebody's text."""
    assert parse_message(text) is None


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(f"Mar  7 07:57:54 host sshd[123]: {XID_79}", id="other-tag"),
        pytest.param(f"Mar  7 07:57:54 host prog: kernel: {XID_79}", id="kernel-inside-a-message"),
        pytest.param(f"Mar  7 07:57:54 prog: kernel: {XID_79}", id="tag-where-the-host-would-be"),
        pytest.param(f"user kernel: {XID_79}", id="no-time"),
    ],
)
def test_another_programs_line_is_not_the_kernels(line: str) -> None:
    """Only the tag `kernel:` in its own place makes a syslog line a kernel message."""
    assert parse_line(line) is None


def test_a_user_chosen_version_string_cannot_carry_an_event() -> None:
    """The driver prints what a client claims its version to be, line breaks included: still one message about that."""
    found = parse_message(f"NVRM: API mismatch: the client has the version x\n{XID_79}, but\nNVRM: this kernel module")
    assert found is not None
    assert (found.kind, found.code, found.bdf) == (LineKind.OTHER_NVRM, None, None)
    assert "\n" not in found.text


@pytest.mark.parametrize(
    ("name", "task", "pid"),
    [
        pytest.param(
            "a:1 blocked for more than 9 seconds", "a:1 blocked for more than 9 seconds", 42, id="like-the-rest"
        ),
        pytest.param("NVRM: Xid (0:1)", "NVRM: Xid (0:1)", 42, id="looks-like-an-xid"),
        pytest.param("x\n\x1b[2J", "x\\n\\x1b[2J", 42, id="control-characters"),
    ],
)
def test_a_task_name_is_only_a_name(name: str, task: str, pid: int) -> None:
    """Whatever a task is called, the pid is the kernel's, and nothing in the name reaches a terminal raw."""
    found = parse_message(f"INFO: task {name}:{pid} blocked for more than 120 seconds.")
    assert found is not None
    assert (found.kind, found.pid, found.fields) == (LineKind.HUNG_TASK, pid, {"task": task, "seconds": "120"})


@pytest.mark.parametrize("name", ["a, caused by p", "x, 154, GPU rec", "pid=1, name=b"])
def test_a_process_name_changes_no_number(name: str) -> None:
    """The name in an Xid line stands after code and pid, and its commas start nothing new."""
    found = parse_message(f"NVRM: Xid (PCI:0000:3b:00): 31, pid=9, name={name}, Ch 00000008")
    assert found is not None
    assert (found.code, found.pid) == (31, 9)
    assert not {"caused_by", "recovery_to"} & set(found.fields)


@given(st.binary(max_size=400))
def test_no_bytes_make_the_parser_raise(raw: bytes) -> None:
    """Any bytes are a record: at worst one without a header."""
    record = parse_record(raw)
    assert 0 <= record.priority <= 7
    assert record.sequence == sequence_of(raw)
    parse_message(record.text)


_PIECES = st.sampled_from(
    ["NVRM: ", "Xid ", "(PCI:0000:3b:00)", ": ", "79", ", ", "pid=", "name=", "GPU ", "\n", "[1.2] ", "kernel: ",
     "SXid ", "nvidia-nvswitch0: ", "INFO: task ", "blocked for more than ", "4,1,2,-;", "\\x0a", "{",
     "AER: ", "0000:3b:00.0"]
)  # fmt: skip


@given(st.lists(_PIECES | st.text(max_size=8), max_size=12).map("".join))
def test_no_text_makes_the_parser_raise_and_all_it_returns_is_printable(text: str) -> None:
    """Half-right lines yield nothing or something that can be shown on any terminal."""
    found = parse_line(text)
    if found is not None:
        assert found.text.isprintable()
        assert all(value.isprintable() for value in found.fields.values())


def test_a_flood_in_one_line_is_cut() -> None:
    """A line without end is read as far as a kernel record can reach."""
    found = parse_line(XID_79 + "x" * 10_000_000)
    assert found is not None
    assert len(found.text) <= MAX_TEXT
