"""Xid lines that say more than their number: grades, victims, echoes, and what NVML says first."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gpuwarden.model.finding import Incident
from gpuwarden.model.observation import KernelLogChanged, Restored
from gpuwarden.model.rows import latch_row
from gpuwarden.model.severity import EventClass, Severity
from support.story import Story, uuid

LINK_DOWN = "NETIR_LINK_EVT Fatal XC0 i0 Link 01 (0x004505c6 0x00000000 0x0 0x0 0x0 0x0)"  # V1: signal integrity
PEER = "NETIR_LINK_EVT Fatal XC0 i0 Link 01 (0x021425c6 0x00000000 0x0 0x0 0x0 0x0)"
HARMLESS = "SAW_MVB Nonfatal XC0 i0 Link 0 (0x00000021 0x00000004 0x0 0x0 0x0 0x0)"
TO_RESET = "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"
TO_REBOOT = "GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"
TO_DRAIN = "GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)"
DRAINED = "GPU recovery action changed from 0x4 (Drain and Reset) to 0x1 (GPU Reset Required)"
TO_NONE = "GPU recovery action changed from 0x1 (PF FLR) to 0x0 (None)"


def story(driver: str = "570.124.06", *, kmsg: bool = True) -> Story:
    """Return a node with two GPUs on that driver."""
    told = Story()
    told.pci(0, 1, version=driver)
    told.session(2)
    for number in (0, 1):
        told.opened(number)
        told.sample(number)
    if kmsg:
        told.take(KernelLogChanged(at=told.at, up=True, detail="", records=1, lost=0, sequence=1))
    told.wait(1)
    return told


def incident(told: Story, code: int | str, number: int = 0) -> Incident:
    return told.node.incidents[f"xid.xid_{code}", uuid(number)]


def test_a_link_that_needs_a_reset_is_critical_and_waits_for_one() -> None:
    """The code alone is a warning that goes by itself; its words say that only a reset helps."""
    told = story()
    told.xid(0, 149, LINK_DOWN)
    found = incident(told, 149)
    assert (found.severity, found.event_class) == (Severity.CRITICAL, EventClass.RESET)
    assert found.evidence["link_down_reason"] == "0x04"
    told.wait(2)
    told.boottime += 7200.0
    told.wait(1)
    assert ("xid.xid_149", uuid(0)) in told.open()


def test_the_victim_of_its_peer_is_a_warning_that_says_so() -> None:
    """Reason 0x21 blames the other end of the link: nobody should send this GPU back."""
    told = story()
    told.xid(0, 149, PEER)
    found = incident(told, 149)
    assert found.severity is Severity.WARNING
    assert found.evidence["blame"] == "peer"
    assert "other end of the link" in str(found.evidence["advice"])


def test_a_new_driver_puts_the_sub_code_elsewhere() -> None:
    """The same words under branch 580 fit no row: the kind's own weight, and it is said."""
    told = story("580.82.07")
    told.xid(0, 149, PEER)
    assert "blame" not in incident(told, 149).evidence
    assert incident(told, 149).evidence["decoded"] == "no row of the table fits these words"


def test_harmless_words_are_counted_and_open_nothing_whichever_witness_comes_first() -> None:
    """NVML delivers the number only: where the log is read, the line that follows decides."""
    for first, second in (("line", "event"), ("event", "line")):
        told = story()
        for witness in (first, second):
            told.xid(0, 144, HARMLESS) if witness == "line" else told.nvml_xid(0, 144)
        told.wait(5)
        assert told.open() == set()
        assert [(row.xid, row.total) for row in told.gpu(0).xids] == [(144, 1)]


def test_a_fatal_line_after_its_event_is_one_incident_of_one_event() -> None:
    """The event opens nothing, the line says what it is."""
    told = story()
    told.nvml_xid(0, 149)
    assert told.open() == set()
    told.xid(0, 149, LINK_DOWN)
    assert (incident(told, 149).severity, incident(told, 149).count) == (Severity.CRITICAL, 1)


def test_an_event_without_a_line_opens_by_its_number() -> None:
    """The kernel log may have lost the line: after two seconds the number has to do. Without a log, at once."""
    told = story()
    told.nvml_xid(0, 149)
    told.wait(4)
    assert incident(told, 149).severity is Severity.WARNING
    blind = story(kmsg=False)
    blind.nvml_xid(0, 149)
    assert incident(blind, 149).count == 1


def test_a_line_tells_what_its_event_only_named() -> None:
    """The kernel's text reaches the evidence of an incident that NVML opened a moment before."""
    told = story()
    told.nvml_xid(0, 79)
    told.xid(0, 79, "pid='<unknown>', name=<unknown>, GPU has fallen off the bus.")
    found = incident(told, 79)
    assert found.count == 1
    assert "fallen off the bus" in str(found.evidence["text"])


def test_the_worst_of_several_lines_counts() -> None:
    """A harmless line after a fatal one takes nothing back."""
    told = story()
    told.xid(0, 149, LINK_DOWN)
    told.xid(0, 149, "NETIR_BER_EVENT Nonfatal XC0 i0 Link 03 (0x00086226 0x00000001 0x0 0x0 0x0 0x0)")
    found = incident(told, 149)
    assert (found.severity, found.event_class, found.count) == (Severity.CRITICAL, EventClass.RESET, 2)


def test_a_graded_incident_is_the_same_after_a_restart() -> None:
    """Severity and what it waits for are written down and restored, not taken from the kind."""
    told = story()
    told.xid(0, 149, LINK_DOWN)
    row = latch_row(incident(told, 149))
    after = story()
    after.take(Restored(at=after.at, inventory=(), latches=(row,), counters=()))
    found = incident(after, 149)
    assert (found.severity, found.event_class) == (Severity.CRITICAL, EventClass.RESET)


@pytest.mark.parametrize(
    ("rest", "severity"), [(TO_RESET, Severity.CRITICAL), (TO_DRAIN, Severity.WARNING), (TO_REBOOT, Severity.CRITICAL)]
)
def test_a_recovery_action_alone_weighs_what_its_value_says(rest: str, severity: Severity) -> None:
    """Drain and reset lets work go on."""
    told = story()
    told.xid(0, 154, rest)
    assert incident(told, 154).severity is severity


def test_a_verdict_makes_its_cause_as_grave_as_itself() -> None:
    """An MMU fault is the application's, until the driver asks for a reboot after it: one incident, now critical."""
    told = story()
    told.xid(0, 31)
    told.xid(0, 154, TO_REBOOT)
    assert told.open() == {("xid.xid_31", uuid(0))}
    found = incident(told, 31)
    assert (found.severity, found.event_class) == (Severity.CRITICAL, EventClass.RECOVERY)
    assert found.evidence["recovery_action"] == "node_reboot"
    assert found.evidence["recovery_advice"] == "Take work off this node and reboot it."


def test_the_next_verdict_about_the_same_fault_stays_with_it() -> None:
    """Drain and reset becomes reset once the jobs are gone: an hour later, and still the same incident."""
    told = story()
    told.xid(0, 149, LINK_DOWN)
    told.xid(0, 154, TO_DRAIN)
    told.wait(60)
    told.xid(0, 154, DRAINED)
    assert told.open() == {("xid.xid_149", uuid(0))}
    assert incident(told, 149).evidence["recovery_to"] == 1


def test_a_verdict_that_comes_before_its_cause_is_folded_into_it() -> None:
    """Real GB200 logs have the 154 half a second before the 149 it is about."""
    told = story()
    told.xid(0, 154, TO_DRAIN)
    told.wait(1)
    told.xid(0, 149, LINK_DOWN)
    assert told.open() == {("xid.xid_149", uuid(0))}
    assert incident(told, 149).evidence["recovery_action"] == "drain_and_reset"
    assert told.told("cleared") == ["xid.xid_154"]


def test_an_application_error_after_a_verdict_does_not_swallow_it() -> None:
    """What is killed because of a fault is not the fault."""
    told = story()
    told.xid(0, 154, TO_RESET)
    told.xid(0, 31)
    assert ("xid.xid_154", uuid(0)) in told.open()


def test_a_verdict_taken_back_ends_itself_only() -> None:
    """To 0x0 whatever the label; nothing opens where nothing was open."""
    told = story()
    told.xid(0, 154, TO_NONE)
    assert told.open() == set()
    told.xid(0, 154, TO_RESET)
    told.xid(0, 154, TO_NONE)
    assert told.open() == set()


def test_nvml_names_a_changed_verdict_without_its_value_and_opens_nothing() -> None:
    """It may have changed to none; the reading of the same name has the value within seconds."""
    told = story()
    told.nvml_xid(0, 154)
    told.wait(5)
    assert told.open() == set()


def test_a_follower_that_names_its_cause_is_put_down_to_it() -> None:
    """45 says which Xid it follows from: a comment on that incident, no incident of its own."""
    told = story()
    told.xid(0, 145, "RLW_REMAP Nonfatal XC0 i0 Link 0 (0x00000082 0x00000001 0x0 0x0 0x0 0x0)")
    told.xid(0, 45, "pid=9, name=python3, Ch 00000002 caused by previous Xid 145")
    assert told.open() == {("xid.xid_145", uuid(0))}
    assert incident(told, 145).evidence["followed_by_xid"] == 45
    assert incident(told, 145).count == 1


def test_a_single_gsp_timeout_counts_fully_and_says_that_lines_are_few() -> None:
    """Only one of thirty is printed: one line is a critical incident, and its count is a lower bound."""
    told = story()
    told.xid(0, 119, "pid=5, name=a, Timeout after 6s of waiting for RPC response from GPU0 GSP! Expected function 76")
    found = incident(told, 119)
    assert found.severity is Severity.CRITICAL
    assert str(found.evidence["count_is"]).startswith("at least")
    told.line(
        "NVRM: Rate limiting GSP RPC error prints for GPU at PCI:0000:10:00 (printing 1 of every 30).  The GPU likely "
        "needs to be reset."
    )
    assert incident(told, 119).evidence["printed_one_of"] == 30
    assert incident(told, 119).count == 1


def test_the_word_that_lines_are_dropped_is_a_sighting_by_itself() -> None:
    """Where the first time-out's line was lost, this one still names the GPU."""
    told = story()
    told.line("NVRM: Rate limiting GSP RPC error prints for GPU at PCI:0000:11:00 (printing 1 of every 30).")
    assert told.open() == {("xid.xid_119", uuid(1))}


@pytest.mark.parametrize("rest", [TO_NONE, TO_REBOOT])
def test_a_forged_line_neither_ends_nor_changes_what_is_true(rest: str) -> None:
    """Anybody may write to the log: a real incident is not touched by it."""
    told = story()
    told.xid(0, 154, TO_DRAIN)
    before = incident(told, 154)
    told.xid(0, 154, rest, from_kernel=False)
    assert incident(told, 154) == before


def test_a_forged_line_alone_is_a_drill() -> None:
    """It is shown and marked, and a real one takes its place."""
    told = story()
    told.xid(0, 149, LINK_DOWN, from_kernel=False)
    assert incident(told, 149).drill
    told.xid(0, 149, LINK_DOWN)
    assert not incident(told, 149).drill


def test_a_gpu_that_answers_after_a_failed_start_has_been_started() -> None:
    """`presence.init_failed` ends when the driver got the GPU to work after all."""
    told = story()
    told.failed(0, 15)
    told.line("NVRM: GPU 0000:10:00.0: RmInitAdapter failed! (0x62:0x40:2477)")
    told.wait(3)
    assert ("presence.init_failed", uuid(0)) in told.open()
    told.opened(0)
    told.wait(1)
    assert ("presence.init_failed", uuid(0)) not in told.open()


def test_the_two_lines_of_one_failed_start_are_one() -> None:
    """The line with the status is the event; the one after it is not another, and alone it is enough."""
    told = story()
    told.line("NVRM: GPU 0000:10:00.0: RmInitAdapter failed! (0x62:0x40:2477)")
    told.line("NVRM: GPU 0000:10:00.0: rm_init_adapter failed, device minor number 0")
    told.line("NVRM: GPU 0000:11:00.0: rm_init_adapter failed, device minor number 1")
    counts = {name: found.count for (_, name), found in told.node.incidents.items()}
    assert counts == {uuid(0): 1, uuid(1): 1}


def test_a_switch_error_ends_when_every_gpu_started_over() -> None:
    """The host's own reset-class incidents end with a reload of the driver."""
    told = story()
    for number in (0, 1):
        told.sample(number, energy_joules=500.0)
    told.line("nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 30 LTSSM Fault Up")
    told.wait(1)
    told.sample(0, energy_joules=1.0)
    told.wait(1)
    assert ("xid.sxid_fatal", "") in told.open()
    told.sample(1, energy_joules=1.0)
    told.wait(1)
    assert ("xid.sxid_fatal", "") not in told.open()


def test_forged_switch_errors_are_counted_together() -> None:
    """Made-up numbers take no room from real ones."""
    told = story()
    for code in range(30000, 30200):
        told.line(f"nvidia-nvswitch3: SXid (PCI:0000:05:00.0): {code}, Fatal, x", from_kernel=False)
    told.line("nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 30 LTSSM Fault Up")
    assert told.node.sxids == {(0, "yes"): 200, (20034, "yes"): 1}


def test_an_operators_word_on_a_kind_is_the_default_for_lines_that_say_nothing_more() -> None:
    """A configured severity holds for Xids without words of their own."""
    told = story()
    kinds: dict[str, Any] = told.node.settings.kinds
    kinds = kinds | {"xid.xid_79": replace(kinds["xid.xid_79"], severity=Severity.WARNING)}
    told.node = replace(told.node, settings=replace(told.node.settings, kinds=kinds))
    told.xid(0, 79)
    assert incident(told, 79).severity is Severity.WARNING
