"""Every kind that an Xid can open: it opens on its own line, on no other's, and ends by what repairs it."""

from __future__ import annotations

import pytest

from gpuwarden.model.severity import EventClass
from gpuwarden.model.xid import XidFinding, finding_of, xid_findings
from support.story import Story, uuid

FINDINGS = xid_findings()
UNKNOWN_CODE = 4711
RECOVERY = "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"


def code_of(found: XidFinding) -> int:
    return UNKNOWN_CODE if found.code is None else found.code


def sick(found: XidFinding) -> Story:
    """Return a node whose first of two GPUs had this Xid."""
    story = Story().started(2)
    for number in (0, 1):
        story.sample(number, energy_joules=1000.0, recovery_action=1)
    story.xid(0, code_of(found), RECOVERY if found.code == 154 else "pid='<unknown>', name=<unknown>, text")
    return story


@pytest.mark.parametrize("found", FINDINGS, ids=[found.kind for found in FINDINGS])
def test_one_line_opens_its_kind_on_its_gpu_and_nothing_else(found: XidFinding) -> None:
    """No other kind and no other GPU, with the severity of the kind."""
    story = sick(found)
    opened = {key for key in story.open() if key[0].startswith("xid.")}
    assert opened == {(found.kind, uuid(0))}
    assert story.node.incidents[found.kind, uuid(0)].severity is found.severity
    assert not story.node.incidents[found.kind, uuid(0)].drill


@pytest.mark.parametrize("found", FINDINGS, ids=[found.kind for found in FINDINGS])
def test_the_number_in_another_place_is_not_that_xid(found: XidFinding) -> None:
    """As a pid, as a process name, as a channel, in a line of history or in another module's words."""
    code = code_of(found)
    story = Story().started(2)
    story.xid(0, 43, f"pid={code}, name={code}, Ch {code:08x}, reset channel")
    story.xid(0, 45, f"pid=1, name=Xid (PCI:0000:10:00): {code}, Ch 00000008")
    story.xid(0, code, history=True)
    story.line(f"NVRM: GPU 0000:10:00.0: Xid {code}")
    assert story.open() == set()


@pytest.mark.parametrize("found", FINDINGS, ids=[found.kind for found in FINDINGS])
def test_it_ends_by_what_repairs_it(found: XidFinding) -> None:
    """Application: an hour without repetition. Reset: counters that started over. Recovery: the driver says none."""
    story = sick(found)
    key = (found.kind, uuid(0))
    story.wait(5)
    assert key in story.open()
    match found.event_class:
        case EventClass.APPLICATION:
            story.boottime += 3600.0
        case EventClass.RESET:
            story.boottime += 7200.0
            story.wait(1)
            assert key in story.open()
            story.sample(0, energy_joules=1.0, recovery_action=1)
        case EventClass.RECOVERY:
            story.sample(0, energy_joules=1001.0, recovery_action=0)
    story.wait(1)
    assert key not in story.open()


def test_codes_that_are_only_counted_open_nothing() -> None:
    """Every code of the catalogue without a finding is counted, once."""
    story = Story().started(1)
    silent = [code for code in range(1, 177) if finding_of(code) is None][:60]
    for code in silent:
        story.xid(0, code)
        story.wait(61)
    assert story.open() == set()
    assert {row.xid: row.total for row in story.gpu(0).xids} == dict.fromkeys(silent, 1)
