"""Heat: fans that cannot be seen to turn, time under a slowdown, and every product's own limits."""

from __future__ import annotations

from typing import Any

import pytest

from gpuwarden.checks.rooms import verdicts
from gpuwarden.model.finding import Finding, Health, Unsure
from gpuwarden.model.gpu import Lane, Missing
from gpuwarden.model.kinds import default_settings
from gpuwarden.model.settings import Settings
from gpuwarden.sim.judge import judge
from gpuwarden.sim.products import products
from gpuwarden.sim.scenario import Scenario, Step
from support.story import Story, uuid

FAST = {"fan_speed_ratio": (0.9, 0.9), "fan_speed_rpm": Missing.NOT_SUPPORTED}
SUSPECT = ("thermal.fan_suspect", uuid(0))


def fans(story: Story, number: int = 0, **values: Any) -> None:
    story.sample(number, Lane.NORMAL, **values)


def warming(
    story: Story, seconds: int, per_second: float, *numbers: int, watts: float = 300.0, start: float = 60.0
) -> None:
    """Let the cores of some GPUs rise, the fans told to run fast all the time."""
    for second in range(seconds):
        for number in numbers:
            if second % 10 == 0:
                fans(story, number, **FAST)
        story.running(1, *numbers, core_celsius=float(round(start + per_second * second)), power_watts=watts)


def test_a_fan_that_stands_still_on_a_warm_card_is_suspect_and_ends_when_it_turns() -> None:
    """What NVML calls its speed is what it was told: only the tachometer tells. At rest on a cool card it may stand."""
    story = Story().started(1)
    for core, expected in ((59.0, False), (75.0, True)):
        for _ in range(4):
            fans(story, fan_speed_ratio=(0.6, 0.6), fan_speed_rpm=(1800, 0))
            story.running(10, 0, core_celsius=core)
        assert (SUSPECT in story.open()) is expected
    assert story.node.incidents[SUSPECT].evidence["stopped_fan"] == 1
    for _ in range(32):
        fans(story, fan_speed_ratio=(0.6, 0.6), fan_speed_rpm=(1800, 1800))
        story.running(10, 0, core_celsius=70.0)
    assert SUSPECT not in story.open()


def test_a_core_that_warms_up_at_steady_power_under_fast_fans_is_suspect_until_they_calm_down() -> None:
    """Six degrees a minute; it stays suspect while the fans are told to run fast, also once the rise has ended."""
    story = Story().started(1)
    story.running(200, 0, core_celsius=60.0, power_watts=300.0)
    warming(story, 120, 0.1, 0)
    assert SUSPECT in story.open()
    warming(story, 400, 0.0, 0, start=72.0)
    assert SUSPECT in story.open()
    for _ in range(32):
        fans(story, fan_speed_ratio=(0.5, 0.5))
        story.running(10, 0, core_celsius=60.0, power_watts=300.0)
    assert SUSPECT not in story.open()


def test_a_core_that_warms_up_because_it_works_more_is_not() -> None:
    """New work: power first, heat after it."""
    story = Story().started(1)
    story.running(200, 0, core_celsius=45.0, power_watts=80.0)
    for second in range(240):
        if second % 10 == 0:
            fans(story, **FAST)
        story.running(1, 0, core_celsius=float(round(45 + 25 * (1 - 0.985**second))), power_watts=300.0)
        assert SUSPECT not in story.open()


def test_cards_that_warm_up_together_have_a_room_and_no_bad_fans() -> None:
    """The same rise on most of the siblings."""
    story = Story().started(4)
    story.running(200, 0, 1, 2, 3, core_celsius=60.0, power_watts=300.0)
    warming(story, 120, 0.1, 0, 1, 2, 3)
    assert not {kind for kind, _ in story.open()} & {"thermal.fan_suspect"}


def test_slow_fans_and_a_flat_temperature_are_no_sign() -> None:
    """A rise under slow fans is theirs to answer; a steady temperature under fast ones is their work."""
    story = Story().started(1)
    story.running(200, 0, core_celsius=60.0, power_watts=300.0)
    warming(story, 200, 0.0, 0)
    assert SUSPECT not in story.open()
    for second in range(120):
        if second % 10 == 0:
            fans(story, fan_speed_ratio=(0.4, 0.4))
        story.running(1, 0, core_celsius=float(round(60.0 + second * 0.1)), power_watts=300.0)
    assert SUSPECT not in story.open()


def test_a_card_without_fans_is_not_judged_and_unknown_fans_are_unsure() -> None:
    """A board in a chassis has none of its own; one that does not answer about them may have a bad one."""
    story = Story().started(1)
    fans(story, fan_speed_ratio=Missing.NOT_SUPPORTED)
    assert not [verdict for verdict in verdicts(story.node) if verdict.kind == SUSPECT[0]]
    fans(story, fan_speed_ratio=Missing.UNKNOWN)
    story.running(1, 0)
    assert Unsure(kind=SUSPECT[0], uuid=uuid(0)) in list(verdicts(story.node))
    assert story.gpu(0).health is Health.UNKNOWN


NO_COUNTER = dict.fromkeys(
    ("event_hw_thermal_seconds", "event_sw_thermal_seconds", "event_power_brake_seconds"), Missing.NOT_SUPPORTED
)
BITS = [("thermal.hw_slowdown", 0x48), ("power.power_brake", 0x88), ("thermal.sw_slowdown", 0x20)]


@pytest.mark.parametrize(("kind", "bit"), BITS)
def test_without_the_driver_s_counter_its_reason_is_counted_by_samples(kind: str, bit: int) -> None:
    """Drivers before 590 keep no time per reason; the bit of a sample stands for its second, and clears like it."""
    story = Story().started(1)
    for _ in range(100):
        story.running(5, 0, **NO_COUNTER, clocks_event_reasons=bit)
        story.running(5, 0, **NO_COUNTER, clocks_event_reasons=0)
    assert (kind, uuid(0)) in story.open()
    assert story.node.incidents[kind, uuid(0)].evidence["counted_by"] == "samples"
    story.running(2200 if kind == "thermal.sw_slowdown" else 400, 0, **NO_COUNTER, clocks_event_reasons=0)
    assert (kind, uuid(0)) not in story.open()


@pytest.mark.parametrize(("kind", "bit"), BITS)
def test_a_blinking_reason_is_no_slowdown(kind: str, bit: int) -> None:
    """At changes of state a bit may show for one sample: one in fifty is nothing, also in the first minute."""
    story = Story().started(1)
    for number in range(2000):
        story.running(1, 0, **NO_COUNTER, clocks_event_reasons=bit if number % 50 == 9 else 0)
        assert (kind, uuid(0)) not in story.open()


@pytest.mark.parametrize(("kind", "bit"), BITS)
def test_without_counter_and_reason_nothing_is_known_of_a_slowdown(kind: str, bit: int) -> None:
    """Reasons that cannot be read are unsure; a product that has neither is not judged."""
    story = Story().started(1)
    story.running(1, 0, **NO_COUNTER, clocks_event_reasons=Missing.UNKNOWN)
    assert Unsure(kind=kind, uuid=uuid(0)) in list(verdicts(story.node))
    assert story.gpu(0).health is Health.UNKNOWN
    story.running(1, 0, **NO_COUNTER, clocks_event_reasons=Missing.NOT_SUPPORTED)
    assert not [verdict for verdict in verdicts(story.node) if verdict.kind == kind]


def test_software_slowdown_takes_a_tenth_of_a_quarter_of_an_hour() -> None:
    """Minutes of it are summer; the power cap at full load is no slowdown at all."""
    story = Story().started(1)
    spent = 0.0
    for second in range(1000):
        spent += 1.0 if second % 5 == 0 else 0.0
        story.running(1, 0, event_sw_thermal_seconds=spent, event_sw_power_cap_seconds=float(second))
        assert ("thermal.sw_slowdown" in {kind for kind, _ in story.open()}) is (story.boottime - 1001.0 > 900.0)
    assert {kind for kind, _ in story.open()} == {"thermal.sw_slowdown"}


@pytest.mark.parametrize("name", sorted(products()))
@pytest.mark.parametrize(("below", "kind"), [(3.0, "thermal.core_near_limit"), (0.0, "thermal.core_over_limit")])
def test_every_product_is_judged_by_its_own_limits(name: str, below: float, kind: str) -> None:
    """Margins where the board gives margins, its own thresholds where it gives those, the fixed numbers for none."""
    slowdown = products()[name].thresholds_celsius.slowdown
    heat = Step(seconds=1.0, fault="heat", gpu=0, options={"celsius": slowdown - below + 0.4, "seconds": 3.0})
    scenario = Scenario(version=1, product=f"{name}x1", seconds=75.0, at=(heat,))
    outcome = judge(scenario, Settings(kinds=default_settings()))
    found = [line for line in outcome.log if line.incident == kind]
    assert [line.state for line in found] == ["opened"]
    evidence = found[0].evidence
    if products()[name].threshold_style == "margin":
        assert evidence["limit_offset_celsius"] == products()[name].thresholds_celsius.max_operating - slowdown
    else:
        assert (evidence["limit_source"], evidence["limit_celsius"]) == ("card", slowdown)


@pytest.mark.parametrize("name", sorted(products()))
def test_no_healthy_product_is_hot_slow_or_short_of_power_at_full_load(name: str) -> None:
    """Three minutes of full load in a normal room: nothing to say about any of them."""
    scenario = Scenario(version=1, product=f"{name}x1", seconds=180.0)
    outcome = judge(scenario, Settings(kinds=default_settings()))
    assert outcome.log == ()
    assert not [v for v in verdicts(outcome.state) if isinstance(v, Finding | Unsure)]
