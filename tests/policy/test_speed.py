"""What a GPU's clock is held against, and when."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gpuwarden.model.gpu import Lane, Missing
from gpuwarden.model.speed import Reference, clock_bucket
from gpuwarden.policy.gpus import put
from gpuwarden.policy.sketch import counted
from gpuwarden.policy.speed import HISTORY_SECONDS
from support.story import Story
from support.working import at_work, work

SLOW = {"sm_clock_hertz": 1683e6}


def remembered(story: Story, hertz: float, seconds: float = 2 * HISTORY_SECONDS) -> None:
    """Give GPU 0 a past."""
    gpu = story.gpu(0)
    history = counted(gpu.speed.history, clock_bucket(hertz), seconds)
    story.node = put(story.node, replace(gpu, speed=replace(gpu.speed, history=history)))


def reference(story: Story, number: int = 0) -> tuple[Reference | None, float | None]:
    speed = story.gpu(number).speed
    return speed.reference, speed.reference_hertz


def test_the_reference_is_peers_then_history_then_boost_then_a_share_of_the_maximum() -> None:
    """The order of the throughput rules, each step reached only where the one before it has nothing to say."""
    three = at_work(3)
    remembered(three, 1900e6)
    work(three, 65)
    assert reference(three) == (Reference.PEERS, 1980e6)
    two = at_work(2)
    remembered(two, 1900e6)
    work(two, 65)
    assert reference(two) == (Reference.HISTORY, 1900e6)
    assert reference(two, 1) == (Reference.CUSTOMER_BOOST, 1980e6)
    geforce = at_work(1, graphics_clock_boost_hertz=Missing.NOT_SUPPORTED, sm_clock_max_hertz=3165e6)
    work(geforce, 65)
    assert reference(geforce) == (Reference.SHARE_OF_MAX, pytest.approx(0.8 * 3165e6))
    nothing = at_work(1, graphics_clock_boost_hertz=Missing.NOT_SUPPORTED, sm_clock_max_hertz=Missing.NOT_SUPPORTED)
    work(nothing, 65)
    assert reference(nothing) == (None, None)
    assert nothing.gpu(0).speed.ratio is None


def test_an_hour_of_work_makes_a_past() -> None:
    """Less than that is no measure: a card slow since its first minute would be its own yardstick."""
    story = at_work(1)
    remembered(story, 1500e6, HISTORY_SECONDS - 100)
    work(story, 65)
    assert reference(story)[0] is Reference.CUSTOMER_BOOST
    work(story, 100)
    assert reference(story)[0] is Reference.HISTORY


def test_peers_have_the_same_model_and_power_limit() -> None:
    """A card that somebody capped is not slow because of it, and makes nobody else look fast."""
    story = at_work(4)
    story.sample(0, Lane.NORMAL, power_limit_enforced_watts=400.0)
    work(story, 65, SLOW)
    assert story.gpu(0).speed.peers is None
    assert story.gpu(1).speed.peers is not None
    assert (story.gpu(1).speed.peers.busy, story.gpu(1).speed.peers.median_hertz) == (3, 1980e6)


def test_the_ratio_is_there_while_a_gpu_works_and_only_then() -> None:
    """Absent in the settle time, absent when idle; the past stays."""
    story = at_work(1)
    work(story, 55)
    assert story.gpu(0).speed.ratio is None
    work(story, 10)
    assert story.gpu(0).speed.ratio == 1.0
    known = story.gpu(0).speed.history
    work(story, 2, {"gpu_utilization_ratio": 0.1})
    assert story.gpu(0).speed.ratio is None
    assert story.gpu(0).speed.history == known
    assert known.seconds > 0


def test_a_second_that_the_driver_explains_teaches_nothing() -> None:
    """Clocks held down by heat or power are not what a card can do; nor are those whose reasons are unknown."""
    for reasons in (0x4, 0x48, Missing.UNKNOWN):
        story = at_work(1)
        work(story, 80, {"clocks_event_reasons": reasons, **SLOW})
        assert story.gpu(0).speed.clock is not None
        assert story.gpu(0).speed.free_clock is None
        assert story.gpu(0).speed.history.seconds == 0


def test_a_card_that_the_driver_calls_idle_does_not_work() -> None:
    """Nor does one without a process at idle power, whatever its utilisation counter says."""
    for ghost in ({"clocks_event_reasons": 0x1}, {"power_watts": 70.0}):
        story = at_work(1)
        story.sample(0, Lane.SLOW, processes=0)
        work(story, 70, ghost)
        assert story.gpu(0).speed.clock is None
    story = at_work(1)
    work(story, 70, {"power_watts": 70.0})
    assert story.gpu(0).speed.clock is not None
