"""Each guard: what holds, what is free, and that what is not known holds. Giving back is held by almost nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from gpuwarden.model.case import (
    FOREVER,
    GIVES_BACK,
    ActionKind,
    Around,
    Attempt,
    Case,
    CaseState,
    Fleet,
    Hold,
    Memory,
    Remedy,
    Surroundings,
    Treatment,
    Urgency,
)
from gpuwarden.model.settings import RemedySettings, Window
from gpuwarden.model.snapshot import NodeState
from gpuwarden.model.stamp import Stamp
from gpuwarden.policy.guards import ENDS_WITH_A_PERSON, GUARDS, Ask, holding, in_window
from gpuwarden.policy.ladder import treatment
from support.story import Story, bdf, uuid
from support.ward import ENFORCE, enforcing

UP = 30 * 86_400.0
A = ActionKind
Change = Callable[[NodeState], NodeState]


def free(action: ActionKind = A.REBOOT) -> Ask:
    """Return a question to which the answer is yes."""
    story = Story(at=UP).started(2)
    node = replace(
        story.node,
        settings=replace(story.node.settings, remedy=enforcing()),
        remedy=Remedy(life=UP),
        around=Around(
            surroundings=Surroundings(
                actuator_up=True,
                stopped=False,
                identity=True,
                jobs=0,
                holders={bdf(0): 0, bdf(1): 0},
                logged_in=0,
                held_hosts=0,
            ),
            seen_at=story.node.now.boottime,
            stopped=False,
            lived_to=story.node.now.boottime,
            memory=Memory(durable=True),
        ),
    )
    found: Treatment = treatment(Urgency.NOW, "reboot")
    case = Case(
        id="c1",
        kind="xid.xid_79",
        kinds=("xid.xid_79",),
        uuid=uuid(0),
        serial="S0",
        opened=node.now,
        since=node.now,
        treatment=found,
        state=CaseState.ACTING,
        slot_taken=True,
    )
    return Ask(replace(node, remedy=replace(node.remedy, cases={case.id: case})), case, action, found.rungs[0])


def settings(**changes: object) -> Change:
    def change(node: NodeState) -> NodeState:
        return replace(node, settings=replace(node.settings, remedy=replace(node.settings.remedy, **changes)))

    return change


def around(**changes: object) -> Change:
    return lambda node: replace(node, around=replace(node.around, **changes))


def seen(**changes: object) -> Change:
    return lambda node: replace(
        node, around=replace(node.around, surroundings=replace(node.around.surroundings, **changes))
    )


def remedy(**changes: object) -> Change:
    return lambda node: replace(node, remedy=replace(node.remedy, **changes))


def boottime(value: float) -> Change:
    def change(node: NodeState) -> NodeState:
        node = replace(node, now=Stamp(node.now.boot_id, value, node.now.wall))
        return replace(node, around=replace(node.around, seen_at=value, lived_to=value))

    return change


def attempt(rung: str = "reboot", *, ago: float = 10.0, life_ago: float | None = None, name: str = "") -> Attempt:
    at = free().node.now
    wall, life = at.wall - ago, UP - (ago if life_ago is None else life_ago)
    return Attempt(uuid=name or uuid(0), serial="", kind="xid.xid_79", rung=rung, at=Stamp("b", 1.0, wall), life=life)


def fleet(**changes: object) -> Change:
    said = replace(Fleet(hosts=100, hosts_out=0), **changes)
    return lambda node: around(fleet=said, fleet_at=node.now.boottime)(settings(fleet_query=True)(node))


def other(**changes: object) -> Change:
    def change(node: NodeState) -> NodeState:
        case = replace(free().case, id="c2", uuid=uuid(1), **changes)
        return replace(node, remedy=replace(node.remedy, cases=node.remedy.cases | {"c2": case}))

    return change


HELD: dict[str, list[tuple[ActionKind, Change]]] = {
    "mode": [
        (A.REBOOT, settings(actions=ENFORCE | {"reboot": "shadow"})),
        (A.REBOOT, settings(actions={})),
        (A.TAKE_SLOT, settings(actions=ENFORCE | {"isolate": "shadow"})),
    ],
    "approval": [(A.REBOOT, settings(actions=ENFORCE | {"reboot": "approve"}))],
    "stop": [
        (A.ISOLATE, around(stopped=True)),
        (A.ISOLATE, around(stopped=None)),
        (A.ISOLATE, seen(stopped=True)),
        (A.ISOLATE, seen(stopped=None)),
    ],
    "pause": [
        (A.ISOLATE, remedy(paused_until=FOREVER)),
        (A.ISOLATE, remedy(paused_until=1.0, paused_to_life=UP + 60.0)),
    ],
    "operator_hold": [
        (A.ISOLATE, remedy(holds={uuid(0): Hold(uuid=uuid(0), since=0.0)})),
        (A.ISOLATE, remedy(holds={"": Hold(uuid="", since=0.0)})),
    ],
    "boot_grace": [(A.ISOLATE, boottime(299.0))],
    "other_case": [
        (A.ISOLATE, other(slot_taken=False, isolated=True, state=CaseState.HELD)),
        (A.ISOLATE, other(slot_taken=False, state=CaseState.ISOLATING)),
        (A.ISOLATE, other(slot_taken=False, slot_doubtful=True, state=CaseState.WAITING)),
    ],
    "maintenance_window": [
        (A.REBOOT, settings(windows=(Window((0, 1, 2, 3, 4, 5, 6), 0, 1),))),
        (
            A.REBOOT,
            lambda node: settings(windows=(Window(tuple(range(7)), 0, 1440),))(
                replace(node, now=Stamp(node.now.boot_id, node.now.boottime, 946_684_800.0))
            ),
        ),
    ],
    "cool_down": [
        (A.RESET, remedy(attempts=(attempt(ago=3000.0),))),
        (A.RESET, remedy(attempts=(attempt(ago=9e9, life_ago=3000.0),))),
    ],
    "gpu_budget": [(A.RESET, remedy(attempts=tuple(attempt("reset", ago=80_000.0 + n) for n in range(3))))],
    "host_budget": [
        (A.REBOOT, remedy(attempts=(attempt(ago=80_000.0, name="GPU-of-another-slot"),))),
        (A.REBOOT, remedy(life=3600.0)),
        (A.REBOOT, lambda node: settings(per_host_reboots_per_day=9)(remedy(life=3600.0)(node))),
    ],
    "uptime": [(A.REBOOT, boottime(3599.0))],
    "correlated": [
        (A.REBOOT, fleet(hosts_with={"xid.xid_79": 3})),
        (A.REBOOT, settings(fleet_query=True)),
        (A.REBOOT, lambda node: around(fleet_at=node.now.boottime - 301.0)(fleet()(node))),
    ],
    "fleet_slot": [
        (A.ISOLATE, settings(fleet_max_hosts=None)),
        (A.REBOOT, settings(backend="none")),
        (A.REBOOT, lambda node: settings(backend="none")(fleet(hosts_out=2)(node))),
    ],
    "held_hosts": [(A.TAKE_SLOT, seen(held_hosts=5)), (A.ISOLATE, seen(held_hosts=None))],
    "identity": [(action, seen(identity=unproven)) for action in (A.ISOLATE, A.REBOOT) for unproven in (None, False)],
    "durable": [(A.REBOOT, around(memory=Memory()))],
    "journal": [(A.ISOLATE, lambda node: replace(node, journal_writable=False))],
    "actuator": [
        (A.ISOLATE, seen(actuator_up=False)),
        (A.ISOLATE, around(seen_at=None)),
        (A.ISOLATE, lambda node: around(seen_at=node.now.boottime - 121.0)(node)),
    ],
}
BY_CASE = {"drill", "peers"}
CASES = [(name, action, change) for name, rows in HELD.items() for action, change in rows]
STILL_HELD = {"identity", "journal", "actuator"}
"""What holds giving back too: it would not be safe, or not ours."""


@pytest.mark.parametrize("action", [A.TAKE_SLOT, A.ISOLATE, A.EVICT, A.RESET, A.REBOOT, A.RELEASE, A.RETURN_SLOT])
def test_the_way_is_free(action: ActionKind) -> None:
    """Nothing holds where everything is known and well: no guard holds by itself."""
    assert holding(free(action)) == ()


def test_every_guard_is_tested() -> None:
    """No row of the table without a row here."""
    assert {guard.name for guard in GUARDS} == set(HELD) | BY_CASE
    assert set(HELD) >= ENDS_WITH_A_PERSON


@pytest.mark.parametrize(("name", "action", "change"), CASES, ids=[f"{row[0]}-{n}" for n, row in enumerate(CASES)])
def test_a_guard_holds_alone_and_says_why(name: str, action: ActionKind, change: Change) -> None:
    """What is forbidden, and what is not known, is held by the one guard that is about it, with a reason."""
    asked = free(action)
    held = holding(asked._replace(node=change(asked.node)))
    assert [each.guard for each in held] == [name]
    assert held[0].why


@pytest.mark.parametrize(("name", "action", "change"), CASES, ids=[f"{row[0]}-{n}" for n, row in enumerate(CASES)])
def test_giving_back_is_held_only_where_it_would_not_be_safe(name: str, action: ActionKind, change: Change) -> None:
    """Stopped, paused, in shadow, out of budget: what is ours is given back all the same."""
    del action
    for back in GIVES_BACK:
        asked = free(back)
        held = {each.guard for each in holding(asked._replace(node=change(asked.node)))}
        assert held == ({name} if name in STILL_HELD else set())


def test_a_drill_isolates_where_it_was_announced_and_does_nothing_else() -> None:
    """A line that anybody may have written isolates nothing; what is announced isolates, and no more."""
    asked = free()
    drill = asked._replace(case=replace(asked.case, drill=True))
    announced = drill._replace(node=replace(drill.node, drill=True))
    for action, alone, declared in ((A.ISOLATE, True, False), (A.TAKE_SLOT, True, False), (A.RESET, True, True)):
        assert ("drill" in [each.guard for each in holding(drill._replace(action=action))]) is alone
        assert ("drill" in [each.guard for each in holding(announced._replace(action=action))]) is declared


def test_a_correlated_fault_needs_three_hosts_and_a_share() -> None:
    """Two hosts are chance; three of a thousand are chance too."""
    asked = free()
    for hosts, ill in ((100, 2), (1000, 3)):
        change = fleet(hosts=hosts, hosts_with={"xid.xid_79": ill})
        assert holding(asked._replace(node=change(asked.node))) == ()


def test_an_approval_lets_through_what_waited_for_it() -> None:
    """Approved is approved: by mode, and for what has come over many hosts."""
    asked = free()
    node = settings(actions=ENFORCE | {"reboot": "approve"})(fleet(hosts_with={"xid.xid_79": 50})(asked.node))
    assert {each.guard for each in holding(asked._replace(node=node))} == {"approval", "correlated"}
    assert holding(asked._replace(node=node, case=replace(asked.case, approved=True))) == ()


MONDAY = 1_790_553_600.0 - 1_790_553_600.0 % 604_800.0 + 4 * 86_400.0  # Unix time began on a Thursday


@pytest.mark.parametrize(
    ("window", "hours", "inside"),
    [
        (Window((0,), 60, 120), 1.0, True),
        (Window((0,), 60, 120), 2.0, False),
        (Window((1,), 60, 120), 1.5, False),
        (Window((0,), 1380, 60), 23.5, True),
        (Window((0,), 1380, 60), 24.5, True),
        (Window((0,), 1380, 60), 25.5, False),
        (Window((6,), 1380, 60), 0.5, True),
        (Window((0,), 0, 0), 12.0, True),
    ],
)
def test_a_window_is_of_its_days_and_may_last_into_the_next(window: Window, hours: float, inside: bool) -> None:
    """Days and minutes in UTC; the end is no longer inside."""
    assert in_window((window,), MONDAY + hours * 3600.0) is inside


def test_the_defaults_do_nothing() -> None:
    """Without a configuration every effect is held, first of all by its mode."""
    asked = free()
    node = replace(asked.node, settings=replace(asked.node.settings, remedy=RemedySettings()))
    for action in set(A) - GIVES_BACK - {A.MITIGATE}:
        assert holding(asked._replace(node=node, action=action))[0].guard == "mode"
