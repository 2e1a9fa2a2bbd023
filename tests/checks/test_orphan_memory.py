"""Memory without an owner: what must be true together, and every look-alike that is not."""

from __future__ import annotations

from typing import Any

import pytest

from gpuwarden.model.finding import Health
from gpuwarden.model.gpu import Lane, Missing
from gpuwarden.model.severity import Severity
from gpuwarden.model.workload import GpuProcess, ProcessKind
from support.story import Story, uuid

KIND = "host.orphan_memory"
LEFT = {"memory_used_bytes": 8_000_000_000, "memory_reserved_bytes": 500_000_000}


def lists(story: Story, *processes: GpuProcess, absent: Missing | None = None, hidden: Missing | None = None) -> None:
    story.processes(0, *processes, absent=absent)
    story.owners(0, absent=hidden)


def left(
    seconds: float = 70.0, *, modes: dict[str, Any] | None = None, story: Story | None = None, **how: Any
) -> Story:
    """Return a node whose GPU has held memory for so long while its list of processes said this every minute."""
    story = story or Story().started(1)
    values = LEFT | how.pop("values", {})
    story.sample(0, **values)
    if modes:
        story.sample(0, Lane.SLOW, **modes)
    while seconds > 0:
        lists(story, **how)
        story.running(min(seconds, 60.0), 0, **values)
        if modes:
            story.sample(0, Lane.SLOW, **modes)
        seconds -= 60.0
    return story


def test_it_is_info_first_and_a_warning_after_five_minutes() -> None:
    """Two lists in a row that are empty make it true; the evidence says how much and how long."""
    story = left(50)
    assert story.open() == set()
    left(20, story=story)
    incident = story.node.incidents[KIND, uuid(0)]
    assert incident.severity is Severity.INFO
    assert story.gpu(0).health is Health.HEALTHY
    assert incident.evidence["memory_used_bytes"] == 8_000_000_000
    left(300, story=story)
    assert story.node.incidents[KIND, uuid(0)].severity is Severity.WARNING
    assert story.gpu(0).health is Health.DEGRADED


def test_it_clears_when_the_memory_is_given_back_or_somebody_owns_it() -> None:
    """After its clear time."""
    story = left(200)
    assert story.open() == {(KIND, uuid(0))}
    story.running(150, 0, **LEFT | {"memory_used_bytes": 1_000_000})
    assert story.open() == set()
    story = left(200)
    lists(story, GpuProcess(pid=7, kind=ProcessKind.GRAPHICS))
    story.running(130, 0, **LEFT)
    assert story.open() == set()


def test_a_job_that_starts_between_two_lists_is_nobodys_fault() -> None:
    """The list is older than the memory: nothing is said before the next one."""
    story = Story().started(1)
    story.sample(0, memory_used_bytes=0, memory_reserved_bytes=0)
    lists(story)
    story.running(59, 0, **LEFT)
    lists(story, GpuProcess(pid=7, kind=ProcessKind.COMPUTE))
    story.running(60, 0, **LEFT)
    assert story.told("opened") == []
    assert story.gpu(0).health is Health.HEALTHY


def test_a_job_that_ends_just_before_the_list_is_nobodys_fault() -> None:
    """The reading is a second older than the list; the next one shows that the memory went with the job."""
    story = Story().started(1)
    story.sample(0, **LEFT)
    lists(story)
    story.running(60, 0, memory_used_bytes=0, memory_reserved_bytes=0)
    lists(story)
    story.running(60, 0, **LEFT)
    assert story.told("opened") == []


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"values": {"memory_used_bytes": 200_000_000}}, id="the-drivers-own-share"),
        pytest.param(
            {"values": {"memory_used_bytes": 900_000_000, "memory_reserved_bytes": Missing.NOT_SUPPORTED}},
            id="a-driver-that-counts-its-reserve-as-used",
        ),
        pytest.param({"modes": {"mig_mode": 1}}, id="mig"),
        pytest.param({"modes": {"display_active": 1}}, id="display"),
        pytest.param({"absent": Missing.NOT_SUPPORTED}, id="a-card-without-lists"),
        pytest.param({"values": {"memory_used_bytes": Missing.NOT_SUPPORTED}}, id="a-card-without-that-reading"),
    ],
)
def test_look_alikes_are_silent(how: dict[str, Any]) -> None:
    """No finding, and nothing unknown either."""
    story = left(400, **how)
    assert story.told("opened") == []
    assert story.gpu(0).health is Health.HEALTHY


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"absent": Missing.TIMED_OUT}, id="no-list"),
        pytest.param({"hidden": Missing.TIMED_OUT}, id="no-look-at-the-host"),
        pytest.param({"modes": {"mig_mode": Missing.UNKNOWN}}, id="mode-unknown"),
        pytest.param({"values": {"memory_used_bytes": Missing.IMPLAUSIBLE}}, id="memory-unknown"),
    ],
)
def test_what_cannot_be_told_is_unknown(how: dict[str, Any]) -> None:
    """Neither a finding nor healthy."""
    story = left(400, **how)
    assert story.told("opened") == []
    assert story.gpu(0).health is Health.UNKNOWN


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"hidden": Missing.NO_PERMISSION}, id="another-pid-namespace"),
        pytest.param({"absent": Missing.NO_PERMISSION}, id="the-driver-refuses"),
    ],
)
def test_a_standing_refusal_is_a_blind_spot_and_no_verdict(how: dict[str, Any]) -> None:
    """It is told once as a blind spot; it neither opens, nor clears, nor hides that all else is well."""
    story = left(400, **how)
    assert story.told("opened") == []
    assert story.gpu(0).health is Health.HEALTHY
    story = left(200)
    story.owners(0, absent=Missing.NO_PERMISSION)
    story.running(100, 0, **LEFT)
    assert story.open() == {(KIND, uuid(0))}
