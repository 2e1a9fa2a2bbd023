"""Xids and clocks event reasons over a window: what counts, what falls out, what is never counted."""

from __future__ import annotations

from gpuwarden.model.gpu import Lane, Missing
from gpuwarden.model.tally import NO_INSTANCE, TALLY_WINDOW_SECONDS, Tally
from gpuwarden.policy.tallies import saw_xid
from support.nodes import gpu
from support.story import Story


def test_a_tally_covers_its_window_and_a_bucket_more() -> None:
    """Nothing falls out early, and everything has within ten seconds more."""
    tally = Tally().plus(2, 1003.0)
    assert tally.within(1003.0) == 2
    assert tally.within(1003.0 + TALLY_WINDOW_SECONDS) == 2
    assert tally.within(1003.0 + TALLY_WINDOW_SECONDS + 10.0) == 0
    assert tally.total == 2


def test_a_tally_adds_up_and_stays_small() -> None:
    """One a second for an hour is 300 in the window, in 31 numbers."""
    tally = Tally()
    for second in range(3600):
        tally = tally.plus(1, float(second))
    assert 300 <= tally.within(3599.0) <= 310
    assert len(tally.counts) == 31
    assert tally.total == 3600


def test_the_newest_xid_is_the_last_one() -> None:
    """Also when it was seen before; and the longest not seen makes room."""
    card = gpu(0)
    for code in (31, 79, 31):
        card = saw_xid(card, NO_INSTANCE, code, 1, 10.0)
    assert [xid for _, xid in card.xid_tallies] == [79, 31]
    for code in range(1000, 1100):
        card = saw_xid(card, NO_INSTANCE, code, 1, 20.0)
    assert len(card.xid_tallies) == 64
    assert next(reversed(card.xid_tallies)) == (NO_INSTANCE, 1099)


def test_what_the_kernel_log_tells_counts() -> None:
    """Lines of the driver, also an instance's; not a user's line, and not what is history."""
    story = Story().started(2)
    story.xid(0, 43)
    story.xid(1, 13, from_kernel=False)
    story.xid(1, 31, history=True)
    assert list(story.gpu(0).xid_tallies) == [(NO_INSTANCE, 43)]
    assert story.gpu(1).xid_tallies == {}


def test_one_xid_by_two_witnesses_is_one() -> None:
    """The NVML event beside the kernel's line adds nothing."""
    story = Story().started(1)
    story.xid(0, 43)
    story.nvml_xid(0, 43)
    assert story.gpu(0).xid_tallies[NO_INSTANCE, 43].total == 1


def test_samples_and_edges_of_clocks_event_reasons() -> None:
    """Each sample with the bit counts; it comes up once until it has been gone."""
    story = Story().started(1)
    for mask in (0x4, 0x4, 0x0, 0x24, Missing.TIMED_OUT):
        story.sample(0, Lane.FAST, clocks_event_reasons=mask)
        story.wait(1)
    card = story.gpu(0)
    assert {bit: tally.total for bit, tally in card.clock_events.items()} == {0x4: 3, 0x20: 1}
    assert card.clock_event_edges == {0x4: 2, 0x20: 1}
