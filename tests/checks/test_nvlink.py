"""NVLinks that went down or make errors, against boards that have no bridge, and counters that only stand high."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gpuwarden.checks.rooms import verdicts
from gpuwarden.model.finding import Finding, Health, Unsure
from gpuwarden.model.gpu import Lane, Missing
from support.story import Story, uuid

DOWN, ERRORS = "links.nvlink_down", "links.nvlink_errors"


def links(count: int, *down: int) -> tuple[int, ...]:
    """Return the state of so many links."""
    return tuple(int(link not in down) for link in range(count))


def found(story: Story, kind: str) -> dict[str | None, Finding]:
    """Return what is true now of one kind, by GPU."""
    return {v.uuid: v for v in verdicts(story.node) if isinstance(v, Finding) and v.kind == kind}


def unsure(story: Story, kind: str) -> bool:
    return any(isinstance(v, Unsure) and v.kind == kind for v in verdicts(story.node))


def slow(story: Story, number: int, **values: Any) -> None:
    story.sample(number, Lane.SLOW, **values)


def test_a_link_that_was_up_is_down_and_comes_back() -> None:
    """The incident names the link, and ends when it is up again."""
    story = Story().started(1)
    slow(story, 0, nvlink_up=links(18))
    assert found(story, DOWN) == {}
    slow(story, 0, nvlink_up=links(18, 7))
    evidence = found(story, DOWN)[uuid(0)].evidence
    assert evidence == {"links": "7", "active_links": 17, "expected_links": 18, "expected_by": "own history"}
    story.wait(1)
    assert (DOWN, uuid(0)) in story.open()
    slow(story, 0, nvlink_up=links(18))
    story.running(62, 0)
    assert (DOWN, uuid(0)) not in story.open()


def test_a_link_that_vanishes_from_the_answer_is_down_too() -> None:
    """A driver that no longer lists the link has lost it."""
    story = Story().started(1)
    slow(story, 0, nvlink_up=links(12))
    slow(story, 0, nvlink_up=links(10))
    assert found(story, DOWN)[uuid(0)].evidence["links"] == "10, 11"


def test_a_board_without_a_bridge_has_nothing_to_lose() -> None:
    """Links that were never up are no fault, also beside two boards with a bridge."""
    story = Story().started(4)
    for number in range(4):
        slow(story, number, nvlink_up=links(12, *(range(12) if number < 2 else ())))
    assert found(story, DOWN) == {}


def test_peers_say_what_a_gpu_should_have() -> None:
    """Down since before we looked: the others of its kind agree on eighteen."""
    story = Story().started(4)
    for number in range(4):
        slow(story, number, nvlink_up=links(18, *((3,) if number == 1 else ())))
    assert list(found(story, DOWN)) == [uuid(1)]
    assert found(story, DOWN)[uuid(1)].evidence["expected_by"] == "peers"


def test_two_gpus_do_not_outvote_each_other() -> None:
    """With one other GPU nobody knows which of the two is right."""
    story = Story().started(2)
    slow(story, 0, nvlink_up=links(18))
    slow(story, 1, nvlink_up=links(18, 3))
    assert found(story, DOWN) == {}


def test_in_a_fabric_a_gpu_without_any_link_is_missing_all() -> None:
    """Where there is a fabric there is no such thing as no bridge."""
    story = Story().started(4)
    for number in range(4):
        slow(story, number, nvlink_up=links(18, *(range(18) if number == 2 else ())))
        story.sample(number, Lane.NORMAL, fabric_state=3)
    assert list(found(story, DOWN)) == [uuid(2)]


def test_the_open_incident_remembers_the_link_over_a_restart() -> None:
    """What the journal brings back says which link was up; nobody else does."""
    story = Story().started(1)
    slow(story, 0, nvlink_up=links(4))
    slow(story, 0, nvlink_up=links(4, 2))
    story.wait(1)
    forgetful = replace(story.gpu(0), links_seen_up=())
    story.node = replace(story.node, gpus={uuid(0): forgetful})
    slow(story, 0, nvlink_up=links(4, 2))
    assert list(found(story, DOWN)) == [uuid(0)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(Missing.NOT_SUPPORTED, (False, Health.HEALTHY), id="no-links-no-verdict"),
        pytest.param(Missing.TIMED_OUT, (True, Health.UNKNOWN), id="unknown-is-not-healthy"),
        pytest.param((1, 1, Missing.UNKNOWN, 1), (True, Health.UNKNOWN), id="one-link-unknown"),
        pytest.param(Missing.NO_PERMISSION, (True, Health.HEALTHY), id="refused-is-a-blind-spot"),
    ],
)
def test_absent_states_of_links(value: Any, expected: tuple[bool, Health]) -> None:
    """Unsupported gives no verdict, unknown gives Unsure, refused is said elsewhere."""
    story = Story().started(1)
    slow(story, 0, nvlink_up=links(4))
    slow(story, 0, nvlink_up=value)
    story.wait(1)
    assert (unsure(story, DOWN), story.gpu(0).health) == expected
    assert found(story, DOWN) == {}


def counting(reading: str, per_minute: float, minutes: int = 5, start: float = 500.0) -> Story:
    """Return a story in which link 1 of 4 counts errors, read once a minute."""
    story = Story().started(1)
    for minute in range(minutes):
        slow(story, 0, **{reading: (0, start + minute * per_minute, 0, Missing.NOT_SUPPORTED)})
        story.running(60, 0)
    return story


@pytest.mark.parametrize(
    ("reading", "per_minute", "is_fault"),
    [
        ("nvlink_replay_errors", 1.0, True),
        ("nvlink_replay_errors", 0.25, True),  # one in the window
        ("nvlink_replay_errors", 0.0, False),
        ("nvlink_recovery_errors", 1.0, True),
        ("nvlink_recovery_failed_errors", 1.0, True),
        ("nvlink_integrity_errors", 1.0, True),
        ("nvlink_crc_errors", 6001.0, True),
        ("nvlink_crc_errors", 5900.0, False),
        ("nvlink_crc_flit_errors", 6001.0, True),
        ("nvlink_effective_errors", 30.0, True),
        ("nvlink_effective_errors", 20.0, False),
        ("nvlink_symbol_errors", 1e6, False),
    ],
)
def test_growth_of_counters_against_their_limits(reading: str, per_minute: float, is_fault: bool) -> None:
    """Counters that only stand high are history; replays count at all, CRC errors from a hundred a second."""
    assert (uuid(0) in found(counting(reading, per_minute), ERRORS)) is is_fault


def test_errors_name_link_and_window_and_end_when_the_window_is_clean() -> None:
    """The evidence says where and over how long; a quiet link is forgiven after the window."""
    story = counting("nvlink_replay_errors", 2.0)
    evidence = found(story, ERRORS)[uuid(0)].evidence
    assert (evidence["link"], evidence["replay_errors"], evidence["window_seconds"]) == (1, 8.0, 240)
    for _ in range(30):
        slow(story, 0, nvlink_replay_errors=(0, 508.0, 0, 0))
        story.running(60, 0)
    assert (ERRORS, uuid(0)) not in story.open()


def test_counters_that_start_over_are_no_errors() -> None:
    """After a reload they begin at 0, and what they count then counts from there."""
    story = counting("nvlink_replay_errors", 0.0)
    slow(story, 0, nvlink_replay_errors=(0, 3, 0, 0))
    story.running(60, 0)
    assert found(story, ERRORS) == {}


def test_a_counter_that_becomes_readable_is_no_burst() -> None:
    """A link that comes up shows what it counted long ago."""
    story = Story().started(1)
    for value in (Missing.NOT_SUPPORTED, 700.0, 700.0):
        slow(story, 0, nvlink_replay_errors=(0, value, 0))
        story.running(60, 0)
    assert found(story, ERRORS) == {}


def test_absent_counters_are_unsure_only_where_the_generation_has_them() -> None:
    """NOT_SUPPORTED is another generation; TIMED_OUT is not knowing."""
    story = counting("nvlink_replay_errors", 0.0)
    assert not unsure(story, ERRORS)
    slow(story, 0, nvlink_replay_errors=Missing.TIMED_OUT)
    assert unsure(story, ERRORS)
