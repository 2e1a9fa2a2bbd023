"""No line, however mangled, makes the reader of kernel logs raise, or keeps it for longer than a millisecond."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuwarden.model.kernel_advice import tell
from gpuwarden.model.kernel_log import may_matter, parse_line, parse_record
from gpuwarden.model.kernel_message import MAX_TEXT, parse_message
from gpuwarden.model.nvlink5 import NVLINK5_XIDS, rules_of
from gpuwarden.model.xid import SXIDS, XIDS
from support.story import Story

TABLE = Path(__file__).parents[1] / "data" / "kernel_log_lines.tsv"
LIMIT_SECONDS = 0.001
_RUNS = 5  # the best of so many: what else the machine does is not the line's fault

with TABLE.open(encoding="utf-8", newline="") as rows:
    REAL = tuple(row["line"] for row in csv.DictReader(rows, delimiter="\t", quoting=csv.QUOTE_NONE))


def look_at(line: str) -> None:
    """Do with a line all that is done with one: as a line of a saved log, and as a record of the kernel's ring."""
    found = parse_line(line)
    if found is not None:
        tell(found)
        tell(found, "590.48.01")
        assert len(found.text) <= MAX_TEXT * len(r"\U0010ffff")
    raw = f"4,1,2,-;{line[:8192]}".encode("utf-8", "surrogatepass")[:8192]  # the kernel hands out no longer record
    if may_matter(raw):
        message = parse_message(parse_record(raw).text)
        if message is not None:
            tell(message)


def cpu_seconds(line: str) -> float:
    """Return the CPU time that a line takes, the best of some runs."""
    best = float("inf")
    for _ in range(_RUNS):
        began = time.thread_time()
        look_at(line)
        best = min(best, time.thread_time() - began)
        if best < LIMIT_SECONDS / 4:
            break
    return best


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Tables are read from disk on first use: that is no line's fault either."""
    assert XIDS
    assert SXIDS
    assert all(rules_of(code) for code in NVLINK5_XIDS)


def _mangled(line: str, cuts: list[tuple[int, int, str]]) -> str:
    for start, length, put in cuts:
        at = start % (len(line) + 1)
        line = line[:at] + put + line[at + length :]
    return line


_ANY = st.text(st.characters(exclude_categories=[]), max_size=24)  # surrogates too: what a broken decoder may leave
_WORDS = st.sampled_from(
    ["NVRM: ", "Xid ", "(PCI:0000:3b:00): ", "149, ", "154, ", "pid=", "name=", ", ", "(0x021425c6 0x0)", "0x", "Link ",
     "SXid ", "nvidia-nvswitch0: ", "INFO: task ", " blocked for more than ", "4,1,2,-;", "\\x0a", "{", "\x00",
     "AER: ", "0000:3b:00.0", "kernel: ", "[1.2] ", "caused by previous Xid ", "999999999", "-1", "\n", "\u202e"]
)  # fmt: skip
_CUTS = st.lists(st.tuples(st.integers(0, 4096), st.integers(0, 40), _WORDS | _ANY), max_size=6)
MUTATED = st.builds(_mangled, st.sampled_from(REAL), _CUTS)
REPEATED = st.builds(lambda part, times: part * times, _WORDS | _ANY | st.sampled_from(REAL), st.integers(1, 4000))
SPLICED = st.builds(lambda one, at, other: one[:at] + other, st.sampled_from(REAL), st.integers(0, 200), REPEATED)
BINARY = st.binary(max_size=2000).map(lambda raw: raw.decode("utf-8", "replace"))


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(MUTATED | REPEATED | SPLICED | BINARY | st.lists(_WORDS | _ANY, max_size=60).map("".join))
def test_no_line_raises_or_takes_longer_than_a_millisecond(line: str) -> None:
    """Real lines with parts cut out and put in, parts repeated without end, bytes that are no text."""
    assert cpu_seconds(line) < LIMIT_SECONDS


_LONG = 3_000_000
_XID = "NVRM: Xid (PCI:0000:3b:00): "
_DETAILS = [
    f"{_XID}31, pid=1, name=x, Ch " + "MMU Fault: ENGINE A faulted @ 0x1. Fault is of type " * 400,
    f"{_XID}31, Ch " + "MMU Fault: ENGINE " * 600 + "a" * 4000,
    f"{_XID}13, Graphics " + "(GPC 1, TPC 1" * 2000,
    f"{_XID}45, Ch 1 " + "caused by previous Xid 1" * 2000,
    f"{_XID}74, NVLink: fatal error detected on link 1(" + "0x1, " * 4000,
    f"{_XID}149, NETIR_LINK_EVT Fatal XC0 i0 Link 1 (" + "0x1 " * 4000 + ")",
    f"{_XID}149, NETIR_LINK_EVT Fatal XC0 i0 Link 1 (0x" + "f" * 4000 + ")",
    f"{_XID}144, " + "A" * 4000 + " Fatal",
    f"{_XID}154, GPU recovery action changed from 0x1 (" + "(" * 4000,
    f"{_XID}95, Uncontained: " + "x" * 4000,
    f"{_XID}119, Timeout after " + "9" * 4000,
    f"{_XID}79, pid=1, name=" + ", " * 3000,
    f"{_XID}" + " " * 4000 + "79",
    f"{_XID}" + "9" * 4000,
    "NVRM: Xid (PCI:0000:3b:00" + " GPU-I:1" * 1000,
    "NVRM: loading NVIDIA UNIX " + "Kernel Module " * 600,
    "NVRM: loading NVIDIA UNIX x Kernel Module" + " 590.48.01x" * 600,
    "NVRM: The NVIDIA GPU 0000:3b:00.0 " + "\nNVRM: " * 1000,
    "NVRM: " + " " * 4000 + "RmInitAdapter failed! (",
    "NVRM: GPU 0000:3b:00.0: RmInitAdapter failed! (" + "x" * 4000,
    "nvidia-nvswitch" + "1" * 4000,
    "nvidia-nvswitch0: SXid (PCI:0000:c4:00.0): 20034, Fatal, Link " + "3" * 4000,
    "INFO: task " + "a:1 blocked for more than 9 " * 400,
    "INFO: task " + ":" * 4000,
    "INFO: task " + ":1" * 2000 + " blocked for more than 120 second",
    "a" * 64 + " 0000:3b:00.0: AER: PCIe Bus Error: severity=Corrected, type=" + "A " * 2000,
    ("a" * 60 + " ") * 1000,
    "a." * 3000 + " 0000:3b:00.0: AER: x",
    "[" * 4000,
    "[1.0]" * 1000,
    "<1>" + " " * 4000 + "kernel:",
    "Jan " * 1000 + "kernel: ",
    "1.1.1.1: kern: warning: " * 200,
    "a: kern: " + "[2026-04-22T21:27:51.29163573Z]: " * 200,
    "2024-05-01T12:00:00" + ".1" * 2000,
    "kern  :warn  : " * 300,
    "4,1,2," + "c" * 4000,
    "4,1,2,-;" * 1000,
    "4,1,2,-;" + "\\x41" * 2000,
    "\\x0a" * 4000,
    "\u202e" * 5000,
    "\ud800" * 5000,
    "{" * 5000,
    "[" * 100_000,
    '{"MESSAGE":' + "[" * 50_000,
    json.dumps({"_TRANSPORT": "kernel", "MESSAGE": [255] * 400_000}),
    json.dumps({"_TRANSPORT": "kernel", "MESSAGE": _XID + "79, " + "x" * 200_000}),
    json.dumps({"_TRANSPORT": "kernel", "MESSAGE": [255] * 6_000}),
    json.dumps({"_TRANSPORT": "kernel", "MESSAGE": [300, -1, 2**70]}),
]


@pytest.mark.parametrize("line", _DETAILS, ids=[f"{number}" for number in range(len(_DETAILS))])
def test_what_is_written_to_keep_a_pattern_busy_takes_no_longer(line: str) -> None:
    """Each pattern has its own worst line, of the length of a record and of much more."""
    assert cpu_seconds(line) < LIMIT_SECONDS
    assert cpu_seconds(line * (1 + _LONG // len(line) // 100)) < LIMIT_SECONDS


@pytest.mark.parametrize("line", REAL, ids=[f"{number + 2}" for number in range(len(REAL))])
def test_a_real_line_takes_a_part_of_that(line: str) -> None:
    """The lines of the table as they are, and with a tail that does not end."""
    assert cpu_seconds(line) < LIMIT_SECONDS / 2
    assert cpu_seconds(line + " " * 5000 + line * 50) < LIMIT_SECONDS


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.tuples(MUTATED | SPLICED, st.booleans()), max_size=8))
def test_no_recognised_line_makes_the_engine_raise(lines: list[tuple[str, bool]]) -> None:
    """Whatever a line was recognised as, the kernel's own or forged, it becomes a step."""
    story = Story().started(1)
    for line, from_kernel in lines:
        if parse_line(line) is not None:
            story.line(line, from_kernel=from_kernel)
    story.wait(3)
