"""What must hold however the host is treated: wiped or dated wrongly, stopped at any moment, watched or let act."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from gpuwarden.model.case import GIVES_BACK, ActionKind, CaseState, Intent, Memory, Outcome, Remedy
from gpuwarden.model.observation import AnyObservation, MemoryJudged, Restored
from gpuwarden.model.settings import RemedySettings
from support.ward import ENFORCE, Ward, enforcing

DAY = 86_400.0


def _wipe(ward: Ward) -> None:
    ward.journal = Restored(at=ward.at, inventory=(), latches=(), counters=(), remedy=Remedy())


def _clock_of(kind: str) -> Callable[[Ward], None]:
    def set_clock(ward: Ward) -> None:
        if kind == "2000":
            ward.wall = 946_684_800.0
        elif kind == "jumping":
            ward.wall += (400 * DAY, -800 * DAY)[ward.boots % 2]

    return set_clock


@pytest.mark.parametrize("clock", ["right", "2000", "jumping"])
@pytest.mark.parametrize(("wiped", "reboots"), [(False, 1), (True, 0)], ids=["kept", "wiped"])
def test_a_fault_that_comes_back_after_each_boot_makes_no_reboot_loop(wiped: bool, reboots: int, clock: str) -> None:
    """With its memory one reboot, then a person; a host that may have forgotten reboots none. By no clock another."""
    ward = Ward(tick_seconds=20.0, known=not wiped)
    set_clock = _clock_of(clock)
    set_clock(ward)
    ward.run(40)
    ward.fault(0, 79, cured_by=None)
    for _ in range(4):
        ward.run(5000)
        set_clock(ward)
        if wiped:
            _wipe(ward)
            ward.reboot()
            ward.run(3700)
            ward.fault(0, 79, cured_by=None)
    assert ward.effects().count("reboot") == reboots
    ward.run(600)
    assert ward.case.state is CaseState.HELD
    assert ward.errors == []


def test_a_state_directory_that_is_no_disk_leads_to_no_reboot() -> None:
    """Where the journal lies in memory a loop could not be seen: a person decides at once."""
    ward = Ward(tick_seconds=20.0)
    ward.take(MemoryJudged(at=ward.at, memory=Memory(durable=False, detail="on tmpfs")))
    ward.run(40)
    ward.fault(0, 79, cured_by=ActionKind.REBOOT)
    ward.run(600)
    assert (ward.case.state, ward.boots) == (CaseState.HELD, 0)
    assert "tmpfs" in ward.case.why


STAGES = ("opened", "waiting", "isolating", "acting", "verifying", "soaking", "releasing")
COURSES = [
    *((95, ActionKind.RESET, stage) for stage in STAGES),
    *((79, ActionKind.REBOOT, stage) for stage in STAGES),
    *((95, None, stage) for stage in STAGES[:5]),  # what nothing helps is never proven
]


@pytest.mark.parametrize("stop", [True, None], ids=["on", "unreadable"])
@pytest.mark.parametrize(("xid", "cure", "stage"), COURSES)
def test_a_stop_in_the_middle_of_a_case_stops_it(
    xid: int, cure: ActionKind | None, stage: str, stop: bool | None
) -> None:
    """In whatever state it comes, and also where only whoever acts sees it: nothing forward is begun any more."""
    ward = Ward(tick_seconds=20.0)
    ward.run(40)
    stopped_at: list[int] = []

    def answer(intent: Intent) -> tuple[Outcome | None, bool]:
        refused = stopped_at and intent.action not in GIVES_BACK
        return (Outcome.REFUSED, False) if refused else (Outcome.DONE, True)

    ward.answers = answer
    take = ward.take

    def watching(observation: AnyObservation) -> None:
        take(observation)
        if not stopped_at and stage in ward.course():
            ward.stopped = stop
            stopped_at.append(len(ward.done))

    ward.take = watching  # type: ignore[method-assign]
    ward.fault(0, xid, cured_by=cure)
    ward.run(3000)
    assert stopped_at
    forward = [each for each in ward.done[stopped_at[0] :] if each.intent.action not in GIVES_BACK]
    # what was already on its way to whoever acts may still be done by him who saw no stop: at most the one under way
    assert len(forward) <= 1
    assert ward.errors == []


def _recorded(remedy: RemedySettings, script: tuple[tuple[int, int], ...]) -> tuple[Ward, list[AnyObservation]]:
    ward, seen = Ward(cards=4, remedy=remedy, tick_seconds=20.0), []
    take = ward.take

    def note(observation: AnyObservation) -> None:
        seen.append(observation)
        take(observation)

    ward.take = note  # type: ignore[method-assign]
    ward.run(40)
    for number, xid in script:
        ward.fault(number, xid, cured_by=ActionKind.REBOOT if xid == 79 else ActionKind.RESET)
        ward.run(200)
    return ward, seen


def decisions(ward: Ward) -> list[tuple[object, ...]]:
    """Return what was decided: for each case its GPU, its kinds, the rung it begins with and its first effect."""
    first: dict[object, tuple[object, ...]] = {}
    for event in ward.events:
        case = event.evidence.get("case")
        if event.kind == "action" and event.state in ("intended", "would") and case not in first:
            name = event.evidence.get("first", event.name)
            first[case] = (event.uuid, name)
    opened = [
        (event.evidence["case"], event.uuid, event.name, event.evidence["rung"])
        for event in ward.events
        if event.kind == "case" and event.state == "opened"
    ]
    return [(*each, first.get(each[0])) for each in opened]


SCRIPTS = (((0, 79),), ((0, 95),), ((2, 64),), ((1, 63),), ((3, 48),))


@pytest.mark.parametrize("script", SCRIPTS, ids=[f"xid-{script[0][1]}" for script in SCRIPTS])
def test_a_shadow_decides_what_would_have_been_done(script: tuple[tuple[int, int], ...]) -> None:
    """On the same observations the same cases, GPUs, rungs and first effects; and no effect in shadow."""
    real, seen = _recorded(enforcing(), script)
    shadow = Ward(cards=4, remedy=replace(enforcing(), actions=dict.fromkeys(ENFORCE, "shadow")), tick_seconds=20.0)
    for observation in seen:
        shadow.take(observation)
    assert decisions(shadow) == decisions(real) != []
    assert shadow.done == []
    assert real.done != []
