"""Readings over time: age, windows, load."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpuwarden.model.finding import Health
from gpuwarden.model.gpu import Lane, Missing
from gpuwarden.model.mig import MOST_INSTANCES, MigInstance
from gpuwarden.model.observation import GpuSampled, MigSeen
from gpuwarden.model.snapshot import Presence, Window
from gpuwarden.policy.samples import grow
from support.story import Story, bdf


def test_readings_expire_after_two_periods_and_the_deadline() -> None:
    """Fast lane: 2 x 1 s + 5 s. Seven seconds are still shown, the eighth is not; health is unknown then."""
    story = Story().started(1)
    story.sample(0)
    story.wait(7)
    assert story.gpu(0).readings.core_celsius == 50.0
    story.wait(1)
    assert story.gpu(0).readings.core_celsius is Missing.TIMED_OUT
    assert story.gpu(0).health is Health.UNKNOWN


def test_what_the_product_does_not_have_never_times_out() -> None:
    """NOT_SUPPORTED is a property of the card, not of the moment."""
    story = Story().started(1)
    story.sample(0, memory_celsius=Missing.NOT_SUPPORTED)
    story.wait(9)
    assert story.gpu(0).readings.memory_celsius is Missing.NOT_SUPPORTED


def test_a_lane_without_any_answer_is_a_failed_poll_and_no_sign_of_life() -> None:
    """A sample that holds only reasons for absence does not make a GPU seen."""
    story = Story().started(1)
    last = story.gpu(0).last_sample
    story.wait(2)
    story.sample(0, Lane.NORMAL, pcie_replays=Missing.TIMED_OUT)
    assert story.gpu(0).last_sample == last
    assert story.node.polls["normal", "failed"] == 1


def test_rejected_readings_are_counted_by_name() -> None:
    """A value outside physics is no value, and leaves a count."""
    from tests.support.story import bdf

    story = Story().started(1)
    for _ in range(3):
        values = {"core_celsius": Missing.IMPLAUSIBLE}
        story.take(
            GpuSampled(at=story.at, index=0, bdf=bdf(0), lane=Lane.FAST, values=values, rejected=("core_celsius",))
        )
    assert story.gpu(0).rejected == {"core_celsius": 3}
    assert story.gpu(0).readings.core_celsius is Missing.IMPLAUSIBLE


def test_a_sample_of_an_unknown_gpu_is_dropped() -> None:
    """Late frames of a session before belong to nobody."""
    story = Story().started(1)
    before = story.node.gpus
    story.sample(5)
    assert story.node.gpus == before


@given(st.lists(st.floats(min_value=0.0, max_value=100.0), min_size=2, max_size=300))
def test_a_window_never_reports_more_growth_than_there_was(steps: list[float]) -> None:
    """Growth is at most the total, the span at most two periods and a sample, the rate never negative."""
    window: Window | None = None
    value = 0.0
    for second, step in enumerate(steps):
        value += step
        window = grow(window, value, float(second), 60.0)
        assert -1e-6 <= window.grown <= value + 1e-6
        assert window.span_seconds <= 121.0
        assert (window.rate or 0.0) >= -1e-9


def test_a_window_covers_at_least_its_period_once_it_has_lived_that_long() -> None:
    """A steady rate is reported as that rate, over one to two periods."""
    window: Window | None = None
    for second in range(500):
        window = grow(window, 3.0 * second, float(second), 60.0)
        if second > 60:
            assert window.span_seconds >= 60.0
            assert window.rate == 3.0


def test_a_counter_that_fell_starts_the_window_and_tells_of_the_reset() -> None:
    """Energy back at zero: the GPU was reset or the driver reloaded."""
    story = Story().started(1)
    story.running(3, 0, energy_joules=1000.0)
    assert story.gpu(0).restarted is None
    story.running(1, 0, energy_joules=5.0)
    assert story.gpu(0).restarted == story.boottime
    assert story.gpu(0).windows["energy_joules"].rate is None


def test_load_is_since_the_last_idle_sample_and_the_last_change_of_state() -> None:
    """One idle second starts the settling anew; so does a change of performance state."""
    story = Story().started(1)
    story.running(10, 0, gpu_utilization_ratio=1.0)
    since = story.gpu(0).loaded_since
    assert since == story.boottime - 9
    story.running(1, 0, gpu_utilization_ratio=0.1)
    assert story.gpu(0).loaded_since is None
    settled = story.gpu(0).settled_since
    story.running(1, 0, performance_state=2)
    assert story.gpu(0).settled_since == story.boottime != settled


def test_a_sample_of_the_pcie_thread_does_not_end_a_block() -> None:
    """PCIe throughput is sampled by another thread: that it answers proves nothing about the call that hangs."""
    story = Story().started(1)
    story.blocked(0)
    story.sample(0, Lane.PCIE, pcie_tx_bytes_per_second=1.0)
    assert story.gpu(0).presence is Presence.BLOCKED
    story.sample(0)
    assert story.gpu(0).presence is Presence.ANSWERING


def test_a_reading_that_changed_its_lane_does_not_go_with_the_old_one() -> None:
    """PCIe traffic comes from GPM once there is GPM: the other lane's age no longer counts for it."""
    story = Story().started(1)
    story.sample(0, Lane.PCIE, pcie_tx_bytes_per_second=1.0, pcie_rx_bytes_per_second=1.0)
    for _ in range(40):
        story.sample(0, Lane.NORMAL, pcie_tx_bytes_per_second=2.0)
        story.running(1, 0)
    assert Lane.PCIE not in story.gpu(0).lane_times
    assert story.gpu(0).readings.pcie_tx_bytes_per_second == 2.0
    assert story.gpu(0).readings.pcie_rx_bytes_per_second is Missing.TIMED_OUT


def test_instances_are_replaced_as_a_whole_and_go_with_their_readings() -> None:
    """A look's instances are all there are; they go when they are old, and when their GPU is lost."""
    story = Story().started(1)

    def look(*gis: int) -> list[int]:
        instances = tuple(MigInstance(gi=gi, ci=0, uuid=f"MIG-{gi}") for gi in gis)
        story.sample(0, Lane.NORMAL, mig_mode=1)
        story.take(MigSeen(at=story.at, index=0, bdf=bdf(0), instances=instances))
        return [each.gi for each in story.gpu(0).mig]

    assert look(1, 7) == [1, 7]
    assert look(7) == [7]
    story.running(40, 0)
    assert story.gpu(0).mig == ()
    look(1)
    story.failed(0, 15)
    assert story.gpu(0).mig == ()
    assert look_while_lost(story) == ()


def look_while_lost(story: Story) -> tuple[MigInstance, ...]:
    """Return the instances after a look that was still on its way when the GPU went."""
    story.take(MigSeen(at=story.at, index=0, bdf=bdf(0), instances=(MigInstance(gi=1, ci=0, uuid="MIG-1"),)))
    return story.gpu(0).mig


def test_no_more_instances_are_kept_than_there_can_be() -> None:
    """A broken worker does not fill the memory."""
    story = Story().started(1)
    many = tuple(MigInstance(gi=gi, ci=0, uuid=f"MIG-{gi}") for gi in range(10 * MOST_INSTANCES))
    story.take(MigSeen(at=story.at, index=0, bdf=bdf(0), instances=many))
    assert len(story.gpu(0).mig) == MOST_INSTANCES
