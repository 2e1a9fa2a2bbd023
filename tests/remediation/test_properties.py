"""What holds whatever happens: to the GPUs, to the outside, to the operator's mind, and to the daemon itself.

`GPUWARDEN_EXAMPLES` multiplies how many scripts each property is tried on.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuwarden.model.case import ActionKind, CaseState, Intent, Outcome
from gpuwarden.model.observation import OperatorVerb
from gpuwarden.model.settings import RemedySettings
from support.ward import Ward, enforcing

DAY = 86_400.0
TIMES = int(os.environ.get("GPUWARDEN_EXAMPLES", "1"))
ANSWERS: tuple[tuple[Outcome | None, bool], ...] = (
    (Outcome.DONE, True),
    (Outcome.DONE, True),
    (Outcome.DONE, True),
    (Outcome.EFFECT_UNKNOWN, True),
    (Outcome.EFFECT_UNKNOWN, False),
    (Outcome.REFUSED, False),
    (Outcome.FAILED, False),
    (None, True),
    (None, False),
)
CURES = (ActionKind.RESET, ActionKind.REBOOT, None)


def _fault(ward: Ward, number: int, choice: int) -> None:
    ward.fault(number % ward.cards, (95, 79, 48, 119, 63)[choice % 5], cured_by=CURES[choice % 3])


def _admin(ward: Ward, number: int, choice: int) -> None:
    """An admin drains the node if nobody has, or puts it back to work whoever drained it."""
    del number
    if choice % 2 == 0 and not ward.mark:
        ward.mark = "admin: maintenance"
    elif choice % 2 and ward.mark:
        ward.mark = ""


def _jobs(ward: Ward, number: int, choice: int) -> None:
    if not ward.mark or choice % 2 == 0:
        ward.outside[number % ward.cards].jobs = choice % 2


def _operator(ward: Ward, number: int, choice: int) -> None:
    verb = tuple(OperatorVerb)[choice % len(OperatorVerb)]
    case = next(iter(ward.node.remedy.cases), "")
    ward.ask(verb, number % ward.cards, case)


def _switches(ward: Ward, number: int, choice: int) -> None:
    ward.stopped = (False, True, None)[choice % 3]
    ward.actuator_up = number % 3 != 0
    ward.identity = number % 5 != 0


def _clock(ward: Ward, number: int, choice: int) -> None:
    ward.wall += (-400 * DAY, -3600.0, 3600.0, 400 * DAY)[choice % 4] * (number % 2)


def _forged(ward: Ward, number: int, choice: int) -> None:
    ward.fault(number % ward.cards, (79, 95)[choice % 2], cured_by=None, from_kernel=False)


def _crash(ward: Ward, number: int, choice: int) -> None:
    del number, choice
    ward.crash_after = _once(ward)


def _once(ward: Ward) -> Callable[[str], bool]:
    def crash(_: str) -> bool:
        ward.crash_after = lambda _: False
        return True

    return crash


def _calm(ward: Ward, number: int, choice: int) -> None:
    del number, choice
    ward.stopped, ward.actuator_up, ward.identity = False, True, True


HAPPENINGS = (_fault, _admin, _jobs, _operator, _switches, _clock, _forged, _crash, _calm, _fault, _calm)
SCRIPT = st.lists(
    st.tuples(
        st.integers(0, len(HAPPENINGS) - 1), st.integers(0, 9), st.integers(0, 9), st.sampled_from((10, 120, 900, 4000))
    ),
    min_size=1,
    max_size=12,
)


def lived(script: list[tuple[int, int, int, int]], answers: list[int], remedy: RemedySettings) -> Ward:
    """Return a host after a script, with an outside that answers as told, again and again."""
    turn = iter(range(10_000_000))

    def answer(_: Intent) -> tuple[Outcome | None, bool]:
        return ANSWERS[answers[next(turn) % len(answers)]]

    ward = Ward(cards=2, remedy=remedy, tick_seconds=20.0, answers=answer)
    ward.run(40)
    for what, number, choice, seconds in script:
        HAPPENINGS[what](ward, number, choice)
        ward.run(seconds)
    return ward


@settings(max_examples=30 * TIMES, deadline=None)
@given(SCRIPT, st.lists(st.integers(0, len(ANSWERS) - 1), min_size=1, max_size=8))
def test_no_invariant_is_ever_broken(script: list[tuple[int, int, int, int]], answers: list[int]) -> None:
    """No step raises: one case has the host, every intent was written down first, nothing is released unproven."""
    ward = lived(script, answers, enforcing())
    assert ward.errors == []
    assert ward.node.engine_errors == 0


@settings(max_examples=30 * TIMES, deadline=None)
@given(SCRIPT, st.lists(st.integers(0, len(ANSWERS) - 1), min_size=1, max_size=8))
def test_only_what_is_ours_is_undone_and_only_what_is_well_let_back(
    script: list[tuple[int, int, int, int]], answers: list[int]
) -> None:
    """A release finds our own mark; where it is by proof, the GPU is well by the outside's own account."""
    ward = lived(script, answers, enforcing())
    for done in ward.done:
        if done.intent.action is ActionKind.RELEASE:
            assert done.mark_before == done.intent.mark
            assert done.case is not None
            assert done.case.free_by != "proof" or done.cards_well
        if done.intent.action is ActionKind.ISOLATE:
            assert done.mark_before in ("", done.intent.mark)


@settings(max_examples=15 * TIMES, deadline=None)
@given(SCRIPT, st.lists(st.integers(0, len(ANSWERS) - 1), min_size=1, max_size=8))
def test_budgets_hold(script: list[tuple[int, int, int, int]], answers: list[int]) -> None:
    """Whatever the clock says, a host is rebooted by us once a day, and a GPU treated three times."""
    ward = lived(script, answers, enforcing())
    assert len(ward.done) == len({done.intent.id for done in ward.done})
    lived_seconds = sum(seconds for *_, seconds in script)
    days = int(lived_seconds // DAY) + 1
    assert ward.effects().count("reboot") <= days
    for number in range(ward.cards):
        mine = [
            d for d in ward.done if d.intent.action.value in ("reset", "reboot") and d.intent.serial == f"S{number}"
        ]
        assert len(mine) <= 3 * days


@settings(max_examples=10 * TIMES, deadline=None)
@given(SCRIPT)
def test_a_shadow_touches_nothing(script: list[tuple[int, int, int, int]]) -> None:
    """In shadow mode no effect is ever asked for, whatever happens and whatever an operator says."""
    ward = lived(script, [0], RemedySettings(backend="slurm", fleet_max_hosts=2))
    assert ward.done == []
    assert ward.errors == []


@pytest.mark.parametrize(("xid", "cure"), [(95, ActionKind.RESET), (79, ActionKind.REBOOT), (95, None)])
def test_a_crash_after_any_single_step_changes_nothing_in_the_end(xid: int, cure: ActionKind | None) -> None:
    """Thrown away after each step, write, effect and answer in turn: the same effects once, and the same end."""
    whole, _ = _treated(xid, cure, crash_at=-1)
    assert whole.errors == []
    for number in itertools.count():
        broken, crashed = _treated(xid, cure, crash_at=number)
        if not crashed:
            assert number > 20
            break
        assert broken.errors == [], number
        assert broken.effects() == whole.effects(), number
        assert _end(broken) == _end(whole), number


def _end(ward: Ward) -> tuple[object, ...]:
    states = [case.state for case in ward.node.remedy.cases.values()]
    return states, ward.mark, ward.slot, [card.fault for card in ward.outside]


class _Crash:
    """Crashes once, at the point of a number."""

    def __init__(self, at: int) -> None:
        self.left, self.crashed = at, False

    def __call__(self, _: str) -> bool:
        self.left -= 1
        if self.left == -1 and not self.crashed:
            self.crashed = True
            return True
        return False


def _treated(xid: int, cure: ActionKind | None, crash_at: int) -> tuple[Ward, bool]:
    ward = Ward(tick_seconds=20.0)
    ward.run(40)
    crash = _Crash(crash_at) if crash_at >= 0 else _Crash(10**9)
    ward.crash_after = crash
    ward.fault(0, xid, cured_by=cure)
    ward.run(2600)
    return ward, crash.crashed


def test_every_host_that_is_not_held_comes_back() -> None:
    """After the last fault everything is given back, or a person has it."""
    for xid, cure in ((95, ActionKind.RESET), (79, ActionKind.REBOOT), (48, ActionKind.REBOOT), (119, None)):
        ward = Ward(tick_seconds=20.0)
        ward.run(40)
        ward.fault(0, xid, cured_by=cure)
        ward.run(2 * 86_400)
        held = [case for case in ward.node.remedy.cases.values() if case.state is CaseState.HELD]
        assert held or (ward.mark, ward.slot, ward.node.remedy.cases) == ("", False, {})
        assert not ward.slot
