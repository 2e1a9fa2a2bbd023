"""The Xid catalogue: every row loads, and what opens a finding is chosen for a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwarden.model import xid
from gpuwarden.model.severity import EventClass, Severity


def test_every_row_of_every_table_loads_and_cites_its_source() -> None:
    """A row that does not fit its record, or names no source, is found here and not on a host."""
    assert len(xid.XIDS) == 177
    assert len(xid.SXIDS) == 400
    assert set(xid.BUCKETS) == set(xid.XIDS)
    assert all(row.source for row in (*xid.XIDS.values(), *xid.SXIDS.values()))
    assert all(code == row.code for code, row in xid.XIDS.items())


@pytest.mark.parametrize("code", [48, 62, 64, 74, 79, 95, 119, 120, 140])
def test_the_codes_that_are_counted_from_the_first_scrape_are_critical_and_wait_for_a_reset(code: int) -> None:
    """These nine end a job and do not heal by themselves."""
    finding = xid.finding_of(code)
    assert finding is not None
    assert (finding.severity, finding.event_class) == (Severity.CRITICAL, EventClass.RESET)
    assert finding.kind == f"xid.xid_{code}"


@pytest.mark.parametrize("code", [13, 31, 43, 45, 68, 109])
def test_application_faults_are_never_critical(code: int) -> None:
    """What the Kubernetes device plugin takes as the application's own fault pages nobody as a broken GPU."""
    finding = xid.finding_of(code)
    assert finding is None or (
        finding.severity is not Severity.CRITICAL and finding.event_class is EventClass.APPLICATION
    )


def test_followers_and_self_inflicted_codes_are_counted_only() -> None:
    """43 leaves the GPU healthy and 45 follows from another code: neither opens anything."""
    assert xid.finding_of(43) is None
    assert xid.finding_of(45) is None


def test_no_code_that_asks_for_a_reset_or_a_page_is_merely_counted() -> None:
    """A row that says reset, reboot or critical cannot be added to the data without becoming a finding."""
    severe = {xid.Advice.RESET_GPU, xid.Advice.REBOOT_NODE}
    forgotten = [
        row.code
        for row in xid.XIDS.values()
        if (row.action in severe or row.severity is Severity.CRITICAL) and xid.finding_of(row.code) is None
    ]
    assert forgotten == []


def test_every_finding_is_about_a_catalogued_code_named_once() -> None:
    """A code stands in one group only, and has a row to be explained from."""
    codes = [code for group in xid._MATTERS for code in group.codes]
    assert len(codes) == len(set(codes))
    assert set(codes) <= set(xid.XIDS)
    kinds = [finding.kind for finding in xid.xid_findings()]
    assert len(kinds) == len(set(kinds)) == len(codes) + 1
    assert all(finding.title and finding.why for finding in xid.xid_findings())


def test_the_drivers_own_verdict_ends_with_the_drivers_word() -> None:
    """Xid 154 is of the recovery class: it ends when the driver says none."""
    finding = xid.finding_of(154)
    assert finding is not None
    assert finding.event_class is EventClass.RECOVERY


@given(st.integers().filter(lambda code: code not in xid.XIDS))
def test_a_code_unknown_to_this_release_is_never_ignored(code: int) -> None:
    """An unknown Xid warns, says that it is unknown, and advises to ask, whatever its number."""
    told = xid.explain_xid(code)
    assert not told.xid.known
    assert told.xid.action is not xid.Advice.IGNORE
    assert told.finding is xid.UNKNOWN_FINDING
    assert told.bucket.immediate == ""


def test_what_is_explained_carries_nvidias_bucket() -> None:
    """The explanation of 79 names NVIDIA's bucket and since when a 154 stands beside it."""
    told = xid.explain_xid(79)
    assert (told.bucket.immediate, told.bucket.xid154_from) == ("RESTART_BM", "R565")
    assert told.xid.action is xid.Advice.REBOOT_NODE


@pytest.mark.parametrize(
    ("code", "printed", "fatal"),
    [
        pytest.param(12028, "nonfatal", False, id="the-line-says-nonfatal"),
        pytest.param(12028, "fatal", True, id="the-line-says-fatal"),
        pytest.param(10003, None, True, id="catalogue-says-fatal"),
        pytest.param(10001, None, False, id="catalogue-says-harmless"),
        pytest.param(99999, None, False, id="unknown-and-unsaid"),
    ],
)
def test_an_sxids_own_word_wins_over_the_catalogue(code: int, printed: str | None, fatal: bool) -> None:
    """The driver knows the instance; the catalogue only the number."""
    assert xid.sxid_is_fatal(code, printed) is fatal
