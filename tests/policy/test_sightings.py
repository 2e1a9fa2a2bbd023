"""Kernel lines and NVML events: counted once, on the right GPU, from the right witness."""

from __future__ import annotations

from gpuwarden.model.finding import Health
from gpuwarden.model.observation import Injected, Restored
from gpuwarden.model.rows import counter_rows
from gpuwarden.model.step import QuietGpu
from support.story import Story, bdf, uuid

NO_PROCESS = "pid='<unknown>', name=<unknown>, whatever"


def totals(story: Story, number: int) -> dict[tuple[int, str], int]:
    return {(row.xid, row.source): row.total for row in story.gpu(number).xids}


def test_a_line_and_its_nvml_event_are_one() -> None:
    """Two witnesses within two seconds, in either order, count once."""
    for first, second in (("xid", "nvml_xid"), ("nvml_xid", "xid")):
        story = Story().started(2)
        getattr(story, first)(1, 48)
        story.wait(1)
        getattr(story, second)(1, 48)
        assert totals(story, 1) == {(48, "driver"): 1}
        assert totals(story, 0) == {}


def test_two_lines_are_two_and_two_events_match_them() -> None:
    """The kernel log saying it twice means twice, even when NVML says it twice as well."""
    story = Story().started(1)
    story.xid(0, 31)
    story.xid(0, 31)
    story.nvml_xid(0, 31)
    story.nvml_xid(0, 31)
    assert totals(story, 0) == {(31, "driver"): 2}


def test_the_same_code_later_is_a_new_event() -> None:
    """After two seconds the other witness tells of something new."""
    story = Story().started(1)
    story.xid(0, 31)
    story.wait(3)
    story.nvml_xid(0, 31)
    assert totals(story, 0) == {(31, "driver"): 2}


def test_a_folded_line_counts_its_repeats() -> None:
    """The reader folds a flood into a count; nothing of it is lost."""
    story = Story().started(1)
    story.xid(0, 31, count=500)
    assert totals(story, 0) == {(31, "driver"): 500}


def test_xid_79_opens_at_once_and_has_the_gpu_probed_and_left_alone() -> None:
    """Critical incident in the same step; one command to probe that GPU, by its BDF."""
    story = Story().started(2)
    story.xid(1, 79, "pid='<unknown>', name=<unknown>, GPU has fallen off the bus.")
    assert ("xid.xid_79", uuid(1)) in story.open()
    assert story.gpu(1).health is Health.UNHEALTHY
    assert story.commands == [QuietGpu(bdf(1))]


def test_a_line_not_written_by_the_kernel_is_a_drill_at_most() -> None:
    """Anyone who may write to the log can forge it: counted as user, marked as drill, no call is touched."""
    story = Story().started(1)
    story.xid(0, 79, from_kernel=False)
    assert totals(story, 0) == {(79, "user"): 1}
    assert story.node.incidents["xid.xid_79", uuid(0)].drill
    assert story.commands == []
    story.xid(0, 79)
    assert not story.node.incidents["xid.xid_79", uuid(0)].drill
    assert len(story.commands) == 1


def test_what_nvml_tells_after_a_look_back_is_new() -> None:
    """A line of an hour ago, read at the start, is not what NVML tells of a second later."""
    for witness in (True, False):
        story = Story().started(1)
        story.xid(0, 64, history=True, from_kernel=witness)
        story.nvml_xid(0, 64)
        assert sum(totals(story, 0).values()) == 2


def test_a_forged_line_and_an_nvml_event_are_one_and_the_event_is_the_drivers_word() -> None:
    """Counted once, in either order; what NVML says is real, so neither order leaves it a drill."""
    story = Story().started(1)
    story.xid(0, 79, from_kernel=False)
    story.nvml_xid(0, 79)
    assert totals(story, 0) == {(79, "user"): 1}
    assert not story.node.incidents["xid.xid_79", uuid(0)].drill
    assert story.commands == [QuietGpu(bdf(0))]
    other = Story().started(1)
    other.nvml_xid(0, 79)
    other.xid(0, 79, from_kernel=False)
    assert totals(other, 0) == {(79, "driver"): 1}
    assert not other.node.incidents["xid.xid_79", uuid(0)].drill


def test_history_is_counted_and_opens_nothing() -> None:
    """Lines from before the first start: shown as history, never a reason to act."""
    story = Story().started(1)
    story.xid(0, 79, history=True)
    assert totals(story, 0) == {(79, "driver"): 1}
    assert story.open() == set()
    assert story.commands == []
    assert story.events[-1].state == "history"


def test_a_line_before_its_gpu_is_known_finds_it_later() -> None:
    """At boot the log is read before NVML answers: the count and the incident move to the GPU at that address."""
    story = Story()
    story.xid(0, 95)
    assert story.open() == {("xid.xid_95", "")}
    story.started(1)
    assert story.open() == {("xid.xid_95", uuid(0))}
    assert totals(story, 0) == {(95, "driver"): 1}


def test_harmless_codes_are_only_counted_and_unknown_ones_are_findings() -> None:
    """Xid 43 follows from something else; a code this release does not know is never taken as harmless."""
    story = Story().started(1)
    story.xid(0, 43)
    assert story.open() == set()
    story.xid(0, 9999)
    assert story.open() == {("xid.xid_unknown", uuid(0))}


def test_xid_154_beside_its_cause_is_a_comment() -> None:
    """One fault, one page: the recovery action becomes evidence of the Xid it followed."""
    story = Story().started(1)
    story.xid(0, 95)
    story.xid(0, 154, "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)")
    assert story.open() == {("xid.xid_95", uuid(0))}
    incident = story.node.incidents["xid.xid_95", uuid(0)]
    assert incident.evidence["recovery_to"] == 1
    assert incident.count == 1


def test_a_drill_s_154_is_a_comment_on_its_cause_too_and_a_real_one_is_never_on_a_drill() -> None:
    """Practice looks like the fault itself; and what somebody forged takes no real line away."""
    changed = "GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"
    drill = Story().started(1)
    drill.take(Injected(at=drill.at, active=True, detail="fallen_off"))
    drill.xid(0, 79)
    drill.xid(0, 154, changed)
    assert ("xid.xid_154", uuid(0)) not in drill.open()
    forged = Story().started(1)
    forged.xid(0, 79, from_kernel=False)
    forged.xid(0, 154, changed)
    assert ("xid.xid_154", uuid(0)) in forged.open()


def test_xid_154_alone_opens_and_its_return_to_none_ends_it() -> None:
    """The target value is the state: to 0x0 is the driver taking it back."""
    story = Story().started(1)
    story.xid(0, 154, "GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)")
    assert story.open() == {("xid.xid_154", uuid(0))}
    story.xid(0, 154, "GPU recovery action changed from 0x2 (Node Reboot Required) to 0x0 (None)")
    assert story.open() == set()


def test_a_storm_is_ten_in_a_minute_on_one_gpu() -> None:
    """Nine are an application's; the tenth in a minute says so. Spread out they never do."""
    story = Story().started(1)
    story.xid(0, 31, NO_PROCESS, count=9)
    assert ("xid.xid_storm", uuid(0)) not in story.open()
    story.xid(0, 13, NO_PROCESS)
    assert ("xid.xid_storm", uuid(0)) in story.open()
    slow = Story().started(1)
    for _ in range(12):
        slow.xid(0, 31, NO_PROCESS)
        slow.wait(20)
    assert ("xid.xid_storm", uuid(0)) not in slow.open()


def test_one_process_that_dies_with_many_lines_is_no_storm() -> None:
    """A line for each core or channel of one process is one event; the same process again and again is a storm."""
    story = Story().started(1)
    for _ in range(60):
        story.xid(0, 13, "pid=7, name=a, Graphics SM Warp Exception on (GPC 0, TPC 0, SM 0): Out Of Range Address")
        story.xid(0, 45, "pid=7, name=a, Ch 00000008")
    assert story.open() == {("xid.xid_13", uuid(0))}
    for _ in range(12):
        story.wait(3)
        story.xid(0, 13, "pid=7, name=a, Graphics SM Warp Exception", count=20)
    assert ("xid.xid_storm", uuid(0)) in story.open()


def test_what_only_follows_from_something_else_is_no_storm() -> None:
    """A killed application leaves a 45 for every channel, and channels name no process at times."""
    story = Story().started(1)
    story.xid(0, 45, NO_PROCESS, count=600)
    story.xid(0, 43, NO_PROCESS, count=600)
    assert story.open() == set()


def test_a_forged_flood_is_no_storm_and_hastens_none() -> None:
    """Lines the kernel did not write add nothing to a storm."""
    story = Story().started(1)
    story.xid(0, 31, NO_PROCESS, count=500, from_kernel=False)
    story.xid(0, 31, NO_PROCESS)
    assert ("xid.xid_storm", uuid(0)) not in story.open()


def test_sxid_lines_count_their_head_only() -> None:
    """One switch error prints several lines: one is counted, and the printed word decides what it is."""
    story = Story().started(1)
    address = "0000:05:00.0"
    story.line(f"nvidia-nvswitch3: SXid (PCI:{address}): 20034, Fatal, Link 30 LTSSM Fault Up")
    story.line(f"nvidia-nvswitch3: SXid (PCI:{address}): 20034, Severity 1 Engine instance 30 Sub-engine instance 00")
    assert story.node.sxids == {(20034, "yes"): 1}
    assert story.open() == {("xid.sxid_fatal", "")}


def test_different_codes_are_bounded_per_gpu() -> None:
    """A forged flood of made-up codes ends in one bucket: the number of series is bounded."""
    story = Story().started(1)
    for code in range(200, 400):
        story.xid(0, code, from_kernel=False)
    rows = totals(story, 0)
    assert len(rows) == 17
    assert sum(rows.values()) == 200
    for code in range(1, 101):
        story.xid(0, code)
    rows = totals(story, 0)
    assert sum(count for (_, source), count in rows.items() if source == "driver") == 100
    assert len(rows) == 17 + 65


def test_init_failure_and_hung_task_are_latched() -> None:
    """RmInitAdapter names its GPU; a hung task is the host's."""
    story = Story().started(1)
    story.line(f"NVRM: GPU {bdf(0)}: RmInitAdapter failed! (0x62:0x40:2477)")
    story.line("INFO: task nvidia-smi:4242 blocked for more than 120 seconds.")
    assert story.open() == {("presence.init_failed", uuid(0)), ("host.hung_task", "")}


def test_xids_of_an_unknown_address_survive_a_restart_and_are_claimed_once() -> None:
    """Counted under the address, written down, restored, and moved to the GPU that answers there: never twice."""
    before = Story()
    before.xid(0, 95)
    rows = tuple(counter_rows(before.node))
    after = Story()
    after.take(Restored(at=after.at, inventory=(), latches=(), counters=rows))
    assert after.node.unclaimed_xids == before.node.unclaimed_xids
    unclaimed = after.node
    after.started(1)
    assert totals(after, 0) == {(95, "driver"): 1}
    later = {(row.uuid, row.name): row.total for row in counter_rows(after.node, unclaimed) if row.family == "xid"}
    assert later == {("PCI-0000:10:00", "95"): 0, (uuid(0), "95"): 1}


def test_an_event_of_an_instance_keeps_which_one() -> None:
    """NVML and the kernel log name GPU and compute instance; both are evidence, alike from either witness."""
    where = f"PCI:{bdf(0).partition('.')[0]} GPU-I:03 GPU-CI:01"
    by_event, by_line = Story().started(1), Story().started(1)
    by_event.nvml_xid(0, 94, gi=3, ci=1)
    by_line.line(f"NVRM: Xid ({where}): 94, pid=7, name=python3, Contained: SM (0x1). RST: No, D-RST: No")
    for story in (by_event, by_line):
        (incident,) = story.node.incidents.values()
        assert (incident.evidence["gi"], incident.evidence["ci"]) == (3, 1)
