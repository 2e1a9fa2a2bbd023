"""Memory: rates and trends of corrected errors, spares, repairs, and retired pages by the board's own calendar."""

from __future__ import annotations

from typing import Any

import pytest

from gpuwarden.checks.rooms import verdicts
from gpuwarden.model.finding import Finding, Health, Unsure
from gpuwarden.model.gpu import Lane, Missing
from gpuwarden.model.severity import Severity
from support.story import Story, uuid

STORM = "memory.ecc_corrected_storm"
HOUR = 3600.0
DAY = 86400.0


class Errors:
    """One GPU whose corrected errors grow at rates that a test sets, read every ten seconds."""

    def __init__(self) -> None:
        self.story = Story().started(1)
        self.total = 0.0

    def run(self, seconds: float, per_hour: float) -> Errors:
        for _ in range(round(seconds / 10)):
            self.story.boottime += 10.0
            self.total += per_hour / 360.0
            self.story.sample(0, Lane.NORMAL, ecc_corrected_volatile=int(self.total))
        return self

    @property
    def found(self) -> Finding | None:
        found = [each for each in verdicts(self.story.node) if each.kind == STORM]
        assert not found or isinstance(found[0], Finding)
        return found[0] if found and isinstance(found[0], Finding) else None


def grade(errors: Errors) -> Severity | None:
    return errors.found.severity if errors.found is not None else None


@pytest.mark.parametrize(
    ("per_hour", "severity"),
    [
        pytest.param(0.0, None, id="none"),
        pytest.param(40.0, None, id="life"),
        pytest.param(130.0, Severity.WARNING, id="alert"),
        pytest.param(20_000.0, Severity.WARNING, id="five-a-second"),
        pytest.param(43_000.0, Severity.CRITICAL, id="twelve-a-second"),
        pytest.param(4_600 * HOUR, Severity.CRITICAL, id="failing-hbm"),
    ],
)
def test_a_steady_rate_is_graded(per_hour: float, severity: Severity | None) -> None:
    """More than 100 in an hour is a warning, more than 10 a second a part that fails now."""
    assert grade(Errors().run(2 * HOUR, per_hour)) is severity


@pytest.mark.parametrize(
    ("place", "limit"), [pytest.param("dram", 20_000_000, id="dram"), pytest.param("sram", 10_000, id="sram")]
)
def test_a_total_beyond_its_limit_is_told_whatever_the_rate(place: str, limit: int) -> None:
    """Slow growth over months adds up too; on-chip memory is expected to have far fewer."""
    story = Story().started(1)
    story.sample(0, **{f"ecc_corrected_volatile_{place}": limit})
    assert [each for each in verdicts(story.node) if each.kind == STORM] == []
    story.sample(0, **{f"ecc_corrected_volatile_{place}": limit + 1})
    (found,) = [each for each in verdicts(story.node) if each.kind == STORM]
    assert isinstance(found, Finding)
    assert (found.severity, found.evidence[f"{place}_errors"]) == (Severity.WARNING, limit + 1)


def test_failing_memory_is_seen_within_two_readings() -> None:
    """Thousands a second from nothing: nobody waits an hour for that."""
    assert grade(Errors().run(HOUR, 0).run(20, 4_600 * HOUR)) is Severity.CRITICAL


def test_some_errors_at_once_are_no_rate() -> None:
    """A handful within a minute is not a hundred in an hour, also not right after the start."""
    assert grade(Errors().run(20, 0).run(10, 80 * 360.0).run(60, 0)) is None


def test_a_storm_is_over_when_its_window_has_passed() -> None:
    """Two windows after the last error the counter is quiet, whatever it has reached."""
    errors = Errors().run(HOUR, 500)
    assert grade(errors) is Severity.WARNING
    assert grade(errors.run(2 * HOUR + 60, 0)) is None


def test_a_rate_that_grows_towards_the_limit_is_announced() -> None:
    """Two an hour for half a day, then sixty: below the limit, and about to cross it."""
    errors = Errors().run(8 * HOUR, 2)
    assert grade(errors) is None
    errors.run(1.2 * HOUR, 60)
    found = errors.found
    assert found is not None
    assert found.severity is Severity.INFO
    assert 0 < float(found.evidence["hours_until_limit"] or 0) < 24
    assert float(found.evidence["baseline_errors_per_hour"] or 0) < float(found.evidence["errors_per_hour"] or 0)
    assert float(found.evidence["baseline_window_seconds"] or 0) >= 6 * HOUR


@pytest.mark.parametrize(
    ("before", "now"),
    [
        pytest.param(50, 55, id="steady"),
        pytest.param(60, 30, id="falling"),
        pytest.param(1, 5, id="few"),
        pytest.param(20, 40, id="less-than-threefold"),
    ],
)
def test_a_rate_that_does_not_grow_or_is_small_is_not_announced(before: float, now: float) -> None:
    """Half the limit for ever is life; a few more than none are too."""
    assert grade(Errors().run(9 * HOUR, before).run(1.5 * HOUR, now)) is None


def test_without_hours_of_baseline_nothing_is_said_about_the_trend() -> None:
    """A young counter has no history to grow from."""
    assert grade(Errors().run(60, 0).run(HOUR, 60)) is None


def test_a_counter_that_started_over_has_no_past() -> None:
    """After a driver reload the counter begins at zero, and so does its rate."""
    errors = Errors().run(HOUR, 500)
    errors.total = 0.0
    assert grade(errors.run(20, 0)) is None


@pytest.mark.parametrize("place", ["dram", "sram", "register_file"])
def test_errors_are_told_by_memory_where_the_board_tells_them_apart(place: str) -> None:
    """The evidence names where the uncorrected errors were."""
    story = Story().started(1)
    story.sample(0, ecc_uncorrected_volatile=2, **{f"ecc_uncorrected_volatile_{place}": 2})
    (found,) = [each for each in verdicts(story.node) if each.kind == "memory.ecc_uncorrected"]
    assert isinstance(found, Finding)
    assert found.evidence == {"uncorrected_errors": 2, f"{place}_errors": 2.0}


@pytest.mark.parametrize(
    ("banks", "severity"),
    [
        ((638, 2, 0, 0, 0), None),
        ((600, 30, 9, 1, 0), Severity.INFO),
        ((600, 30, 9, 0, 1), Severity.WARNING),
        ((), None),
    ],
)
def test_banks_with_few_spares_are_told_and_without_any_warned_about(
    banks: tuple[int, ...], severity: Severity | None
) -> None:
    """An uncorrectable error in a bank without spares cannot be repaired."""
    story = Story().started(1)
    story.sample(0, row_remap_banks=banks)
    found = [each for each in verdicts(story.node) if each.kind == "memory.row_remap_spares_low"]
    assert [each.severity for each in found if isinstance(each, Finding)] == ([severity] if severity else [])


def retired(single: int, double: int, days_ago: float | Missing) -> list[Any]:
    """Return the verdicts on a board with these retired pages."""
    story = Story().started(1)
    last = days_ago if isinstance(days_ago, Missing) else story.at.wall - days_ago * DAY
    story.sample(0, retired_pages_sbe=single, retired_pages_dbe=double, retired_pages_dbe_timestamp_seconds=last)
    return [each for each in verdicts(story.node) if each.kind == "memory.retired_pages_limit"]


@pytest.mark.parametrize(
    ("single", "double", "days_ago", "fails"),
    [
        pytest.param(62, 0, Missing.NOT_SUPPORTED, False, id="nearly-full"),
        pytest.param(60, 3, 300.0, True, id="full"),
        pytest.param(0, 16, 6.9, True, id="sixteen-and-one-this-week"),
        pytest.param(0, 16, 7.1, False, id="sixteen-of-old"),
        pytest.param(0, 15, 0.1, False, id="fifteen"),
        pytest.param(40, 0, Missing.NOT_SUPPORTED, False, id="none-for-double-bit-errors"),
        pytest.param(0, 16, -0.1, True, id="a-clock-that-went-back"),
    ],
)
def test_retired_pages_fail_by_number_and_by_going_on(
    single: int, double: int, days_ago: float | Missing, fails: bool
) -> None:
    """DCGM's two rules; the second by the time the board keeps of each page, so no restart forgets it."""
    assert bool(retired(single, double, days_ago)) is fails


def test_one_rule_that_cannot_tell_hides_no_other() -> None:
    """63 pages are 63 pages though their times are unreadable; fewer with unreadable times are unknown."""
    (full,) = retired(60, 3, Missing.TIMED_OUT)
    assert isinstance(full, Finding)
    (few,) = retired(0, 3, Missing.TIMED_OUT)
    assert isinstance(few, Unsure)


def test_several_reasons_for_one_finding_are_one() -> None:
    """A failed remap on memory the driver calls unrepairable: one incident with both in its evidence."""
    story = Story().started(1)
    story.sample(0, row_remap_failed=1, unrepairable_memory=1, remapped_rows_uncorrected=512)
    story.wait(1)
    incident = story.node.incidents["memory.row_remap_failed", uuid(0)]
    assert incident.evidence == {"row_remap_failed": 1, "unrepairable_memory": 1, "remapped_rows_uncorrected": 512}
    assert incident.severity is Severity.CRITICAL


def test_a_card_without_ecc_is_healthy_without_any_of_it() -> None:
    """Every reading unsupported: no verdict from this room, and none unsure."""
    story = Story().started(1)
    story.sample(0)
    story.wait(1)
    assert not [each for each in verdicts(story.node) if each.kind.startswith("memory.")]
    assert story.gpu(0).health is Health.HEALTHY


STATES = [
    # kind, what makes it true, what ends it
    ("memory.ecc_uncorrected", {"ecc_uncorrected_volatile": 1}, {"ecc_uncorrected_volatile": 0}),
    ("memory.sram_threshold", {"sram_threshold_exceeded": 1}, {"sram_threshold_exceeded": 0}),
    ("memory.row_remap_pending", {"channel_repair_pending": 1}, {"channel_repair_pending": 0}),
    ("memory.row_remap_failed", {"unrepairable_memory": 1}, {"unrepairable_memory": 0}),
    ("memory.row_remap_spares_low", {"row_remap_banks": (9, 0, 0, 0, 1)}, {"row_remap_banks": (9, 1, 0, 0, 0)}),
    ("memory.retired_pages_pending", {"retired_pages_pending": 1}, {"retired_pages_pending": 0}),
    ("memory.retired_pages_limit", {"retired_pages_sbe": 63, "retired_pages_dbe": 0}, {"retired_pages_sbe": 0}),
    ("memory.ecc_disabled", {"ecc_mode": 0, "ecc_mode_default": 1}, {"ecc_mode": 1}),
]


@pytest.mark.parametrize(("kind", "bad", "good"), STATES, ids=[row[0] for row in STATES])
def test_an_incident_ends_when_it_is_no_longer_true_and_not_while_nobody_can_tell(
    kind: str, bad: dict[str, Any], good: dict[str, Any]
) -> None:
    """A board that was exchanged or reset is well again; one that cannot be read is not."""
    story = Story().started(1)
    story.running(2, 0, **bad)
    assert (kind, uuid(0)) in story.open()
    story.running(2, 0, **bad | dict.fromkeys(good, Missing.TIMED_OUT))
    assert (kind, uuid(0)) in story.open()
    story.running(2, 0, **bad | good)
    assert (kind, uuid(0)) not in story.open()
