"""The room of speed: what is slow, what only looks like it, and what cannot be told."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gpuwarden.checks.rooms import verdicts
from gpuwarden.model.finding import Finding, Health, Unsure
from gpuwarden.model.gpu import Lane, Missing
from support.story import Story, uuid
from support.working import H100_AT_WORK, at_work, work

SLOW = {"sm_clock_hertz": 1683e6}  # 0.85 of the boost clock
KINDS = ("clock_deficit", "straggler", "stuck_pstate", "memory_clock", "ghost_busy")


def opened(story: Story) -> set[tuple[str, int]]:
    """Return the open speed incidents by name and GPU."""
    numbers = {uuid(number): number for number in range(len(story.node.gpus))}
    return {(kind, numbers[owner]) for kind, owner in story.open() if kind.startswith("speed.")}


def evidence(story: Story, kind: str, number: int = 0) -> dict[str, Any]:
    return story.node.incidents[kind, uuid(number)].evidence


def test_a_clock_below_its_reference_for_five_minutes_is_a_deficit_and_ends_when_it_is_back() -> None:
    """The evidence names the source of the reference."""
    story = at_work(1)
    work(story, 70)
    work(story, 300, SLOW)
    assert opened(story) == set()
    work(story, 30, SLOW)
    assert opened(story) == {("speed.clock_deficit", 0)}
    found = evidence(story, "speed.clock_deficit")
    assert found["reference_source"] == "customer_boost"
    assert found["reference_hertz"] == 1980e6
    work(story, 120)
    assert opened(story) == set()


@pytest.mark.parametrize("reasons", [0x4, 0x20, 0x48, 0x88, 0x2])
def test_a_reason_that_the_driver_names_explains_a_clock(reasons: int) -> None:
    """Power cap, heat, brake, application clocks: told elsewhere, or normal."""
    story = at_work(1)
    work(story, 460, SLOW | {"clocks_event_reasons": reasons})
    assert opened(story) == set()


def test_a_clock_that_is_explained_from_now_on_is_no_longer_suspect() -> None:
    """What was low before the driver named its reason does not count on."""
    story = at_work(1)
    work(story, 200, SLOW)
    work(story, 300, SLOW | {"clocks_event_reasons": 0x4})
    assert opened(story) == set()


def test_a_blink_of_a_reason_explains_nothing() -> None:
    """HW slowdown may blink at a change of state; a second of it in a minute does not start the hold anew."""
    story = at_work(1)
    for _ in range(8):
        work(story, 49, SLOW)
        work(story, 1, SLOW | {"clocks_event_reasons": 0x8})
    assert opened(story) == {("speed.clock_deficit", 0)}


def test_a_healthy_geforce_card_well_below_its_maximum_is_not_slow() -> None:
    """A loaded RTX 4080 SUPER runs at 2805 of 3165 MHz, its memory in P2 at 0.978 of the maximum."""
    story = at_work(
        1,
        graphics_clock_boost_hertz=Missing.NOT_SUPPORTED,
        sm_clock_max_hertz=3165e6,
        memory_clock_max_hertz=11_501e6,
        power_limit_default_watts=320.0,
    )
    work(
        story,
        1000,
        {"sm_clock_hertz": 2805e6, "memory_clock_hertz": 11_251e6, "performance_state": 2, "power_watts": 296.0},
    )
    assert opened(story) == set()


def test_one_of_eight_at_085_of_its_peers_is_a_straggler_in_the_configured_window() -> None:
    """Ten minutes by default; the window is the operator's to set."""
    for hold in (600.0, 120.0):
        story = at_work(8)
        kinds = story.node.settings.kinds
        changed = kinds | {"speed.straggler": replace(kinds["speed.straggler"], hold_seconds=hold)}
        story.node = replace(story.node, settings=replace(story.node.settings, kinds=changed))
        work(story, 70)
        work(story, hold, {}, {}, {}, SLOW)
        assert ("speed.straggler", 3) not in opened(story)
        work(story, 30, {}, {}, {}, SLOW)
        assert {name for name in opened(story) if name[0] == "speed.straggler"} == {("speed.straggler", 3)}
        found = evidence(story, "speed.straggler", 3)
        assert (found["busy_gpus"], found["peers_median_hertz"], found["clocks_event_reasons"]) == (8, 1980e6, "none")
        assert found["window_seconds"] == hold
    work(story, 120)
    assert opened(story) == set()


def test_a_straggler_is_one_whatever_holds_it_down() -> None:
    """Work that is shared waits for a hot card as for any slow one: the reason is in the evidence."""
    story = at_work(4)
    work(story, 70)
    work(story, 640, SLOW | {"clocks_event_reasons": 0x20})
    assert opened(story) == {("speed.straggler", 0)}
    assert evidence(story, "speed.straggler")["clocks_event_reasons"] == "sw_thermal_slowdown"


def test_cards_that_wait_at_full_utilisation_are_no_stragglers() -> None:
    """In synchronous training those that wait draw less power at the same clock: that is no sign of a slow one."""
    story = at_work(4)
    work(story, 800, {}, *[{"power_watts": 250.0}] * 3)
    assert opened(story) == set()


def test_two_halves_at_two_speeds_have_no_straggler() -> None:
    """Two jobs: the spread is as large as the distance, so nobody is an outlier."""
    story = at_work(4)
    work(story, 800, {"sm_clock_hertz": 1500e6}, {"sm_clock_hertz": 1500e6})
    assert not {name for name, _ in opened(story)} & {"speed.straggler"}


def test_two_busy_gpus_have_no_peers() -> None:
    """Below three nobody can say which of two is the slow one."""
    story = at_work(2)
    work(story, 800, SLOW | {"clocks_event_reasons": 0x4})
    assert opened(story) == set()


def test_a_busy_gpu_in_an_idle_state_is_stuck_there() -> None:
    """P8 at full utilisation for a minute; compute in P2 is normal for GeForce. Its clock needs no second page."""
    story = at_work(1)
    work(story, 400, {"performance_state": 8, "sm_clock_hertz": 210e6})
    assert opened(story) == {("speed.stuck_pstate", 0)}
    work(story, 40, {"performance_state": 2})
    assert opened(story) == set()


def test_a_low_memory_clock_counts_in_a_working_state_only() -> None:
    """Under load in P0 or P2 and below 0.9 of the maximum for a minute."""
    low = {"memory_clock_hertz": 1300e6}
    story = at_work(3)
    work(story, 130, low, low | {"performance_state": 3}, low | {"gpu_utilization_ratio": 0.5})
    assert opened(story) == {("speed.memory_clock", 0)}
    work(story, 40)
    assert opened(story) == set()


def test_a_stuck_counter_is_told_from_work() -> None:
    """Full utilisation, nobody there, idle power for five minutes: the counter. With a process, or with power: work."""
    idle = {"power_watts": 75.0, "sm_clock_hertz": 345e6, "memory_clock_hertz": 2619e6}
    story = at_work(3)
    for number in (0, 2):
        story.sample(number, Lane.SLOW, processes=0)
    work(story, 330, idle, {"power_watts": 75.0})
    assert opened(story) == {("speed.ghost_busy", 0)}
    assert story.gpu(0).health is Health.HEALTHY
    work(story, 40, {"gpu_utilization_ratio": 0.0})
    assert opened(story) == set()


NEEDED = {
    "speed.clock_deficit": ("sm_clock_hertz", "clocks_event_reasons", "gpu_utilization_ratio", "performance_state"),
    "speed.straggler": ("sm_clock_hertz", "gpu_utilization_ratio", "performance_state"),
    "speed.stuck_pstate": ("gpu_utilization_ratio", "performance_state"),
    "speed.memory_clock": ("memory_clock_hertz", "gpu_utilization_ratio", "performance_state"),
    "speed.ghost_busy": ("gpu_utilization_ratio", "power_watts"),
}


@pytest.mark.parametrize(("kind", "reading"), [(kind, reading) for kind, all_ in NEEDED.items() for reading in all_])
def test_an_unknown_reading_is_unsure_and_an_unsupported_one_says_nothing(kind: str, reading: str) -> None:
    """A card that does not say how busy it is may be slow: unknown, never healthy. One that cannot is not judged."""
    story = at_work(1)
    work(story, 70)
    assert reading in H100_AT_WORK
    work(story, 1, {reading: Missing.UNKNOWN})
    assert Unsure(kind=kind, uuid=uuid(0)) in list(verdicts(story.node))
    assert story.gpu(0).health is Health.UNKNOWN
    work(story, 1, {reading: Missing.NOT_SUPPORTED})
    assert not [verdict for verdict in verdicts(story.node) if verdict.kind == kind]


def test_nothing_of_this_is_said_of_a_healthy_card() -> None:
    """No finding and no doubt about H100s at work."""
    story = at_work(8)
    work(story, 100)
    assert [v for v in verdicts(story.node) if isinstance(v, Finding | Unsure)] == []
    assert story.gpu(0).health is Health.HEALTHY
