"""The guards: whether an effect may be brought about now. All of them are asked before each effect; all fail closed.

A guard names what it holds and says why in a sentence, "" where the way is free. What is not known holds. Giving back
what is ours is held only by what would make it unsafe: no journal to write the intent to, no actuator, no proof that
the node is this host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from gpuwarden.model.case import (
    DISRUPTIVE,
    GIVES_BACK,
    LOOK_FRESH_SECONDS,
    SCHEDULERS,
    ActionKind,
    Attempt,
    Case,
    CaseState,
    Rung,
)
from gpuwarden.model.settings import RemedySettings, Window
from gpuwarden.model.snapshot import NodeState
from gpuwarden.policy.scope import peers_busy

DAY_SECONDS = 86_400.0
FLEET_FRESH_SECONDS = 300.0
_AT_LEAST_HOSTS = 3
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0
_CLOCK_IS_SET_FROM = 1_704_067_200.0  # 2024-01-01: a clock that shows less was never set

UNDER_WAY = frozenset({CaseState.ISOLATING, CaseState.ACTING, CaseState.VERIFYING, CaseState.SOAKING})
"""States in which a case is at work on the host."""

EVERY = frozenset(ActionKind) - {ActionKind.MITIGATE}
FORWARD = EVERY - GIVES_BACK
_OUT = frozenset({ActionKind.TAKE_SLOT, ActionKind.ISOLATE})


class Ask(NamedTuple):
    """One question: may this case do this now?"""

    node: NodeState
    case: Case
    action: ActionKind
    rung: Rung

    @property
    def settings(self) -> RemedySettings:
        """Return how far remediation may go."""
        return self.node.settings.remedy


class Guard(NamedTuple):
    """One row: its name in `gpuwarden_actions_held_total{guard}`, what it holds, and its test."""

    name: str
    holds: frozenset[ActionKind]
    test: Callable[[Ask], str]


class Holding(NamedTuple):
    """A guard that holds an effect now."""

    guard: str
    why: str


def holding(ask: Ask) -> tuple[Holding, ...]:
    """Return the guards that hold an effect, in the order of the table; none: the way is free."""
    found = ((guard.name, guard.test(ask)) for guard in GUARDS if ask.action in guard.holds)
    return tuple(Holding(name, why) for name, why in found if why)


def has_host(case: Case) -> bool:
    """Return whether a case has the host to itself: it is at work there, or has taken something it must give back."""
    return case.state in UNDER_WAY or has_taken(case)


def has_taken(case: Case) -> bool:
    """Return whether something of the outside is, or may be, this case's to give back."""
    return case.isolated or case.slot_taken or case.isolation_doubtful or case.slot_doubtful


def mode_of(settings: RemedySettings, action: ActionKind) -> str:
    """Return the mode of an action: shadow, approve or enforce. A slot is taken for isolation's sake."""
    name = ActionKind.ISOLATE if action is ActionKind.TAKE_SLOT else action
    return settings.actions.get(name.value, "shadow")


def life(node: NodeState) -> float:
    """Return for how many seconds this host was watched, over all boots: a clock that nobody can set."""
    counted_to = node.around.lived_to
    return node.remedy.life + (max(0.0, node.now.boottime - counted_to) if counted_to is not None else 0.0)


def recent(node: NodeState, attempts: Iterable[Attempt], seconds: float) -> list[Attempt]:
    """Return the attempts younger than so many seconds by either clock: one that was set proves no age."""
    now, lived = node.now.wall, life(node)
    return [each for each in attempts if now - each.at.wall < seconds or lived - each.life < seconds]


def of_gpu(node: NodeState, case: Case) -> list[Attempt]:
    """Return the attempts on a case's GPU: by uuid, and by serial where a board came back under another."""
    return [
        each
        for each in node.remedy.attempts
        if each.uuid == (case.uuid or "") or (case.serial and each.serial == case.serial)
    ]


def _mode(ask: Ask) -> str:
    return "shadow mode" if mode_of(ask.settings, ask.action) == "shadow" else ""


def _approval(ask: Ask) -> str:
    waits = mode_of(ask.settings, ask.action) == "approve" and not ask.case.approved
    return f"gpuwarden approve {ask.case.id}" if waits else ""


def _stop(ask: Ask) -> str:
    around = ask.node.around
    if around.stopped is not False:
        return around.stop_detail or "the stop switch is on"
    return "the actuator sees the stop switch on" if around.surroundings.stopped is not False else ""


def _pause(ask: Ask) -> str:
    remedy, until = ask.node.remedy, ask.node.remedy.paused_until
    lasts = until is not None and (ask.node.now.wall < until or life(ask.node) < remedy.paused_to_life)
    return "paused by an operator" if lasts else ""


def _operator_hold(ask: Ask) -> str:
    holds = ask.node.remedy.holds
    held = holds.get(ask.case.uuid or "") or holds.get("")
    return f"held by an operator: {held.why or 'no reason given'}" if held is not None else ""


def _window(ask: Ask) -> str:
    windows, wall = ask.settings.windows, ask.node.now.wall
    if windows and wall < _CLOCK_IS_SET_FROM:
        return "the clock was never set: whether this is a maintenance window is not known"
    return "outside the maintenance windows" if windows and not in_window(windows, wall) else ""


def in_window(windows: Iterable[Window], wall: float) -> bool:
    """Return whether a moment (Unix time) lies in one of the windows, which are in UTC."""
    day = (int(wall // DAY_SECONDS) + _EPOCH_WEEKDAY) % 7
    minute = int(wall % DAY_SECONDS // 60)
    for window in windows:
        if window.begin < window.end:
            if day in window.days and window.begin <= minute < window.end:
                return True
        elif (day in window.days and minute >= window.begin) or ((day - 1) % 7 in window.days and minute < window.end):
            return True
    return False


def _cool_down(ask: Ask) -> str:
    rung = ask.rung
    made = [each for each in of_gpu(ask.node, ask.case) if each.rung == rung.name]
    return (
        f"{rung.name} was tried less than {rung.wait_seconds:.0f} s ago"
        if recent(ask.node, made, rung.wait_seconds)
        else ""
    )


def _gpu_budget(ask: Ask) -> str:
    spent, budget = len(recent(ask.node, of_gpu(ask.node, ask.case), DAY_SECONDS)), ask.settings.per_gpu_actions_per_day
    return f"{spent} of {budget} actions on this GPU in a day are spent" if spent >= budget else ""


def _host_budget(ask: Ask) -> str:
    """Count the reboots of a day. Where the host was watched for less than that, all may have been forgotten."""
    budget = ask.settings.per_host_reboots_per_day
    spent = len(recent(ask.node, (each for each in ask.node.remedy.attempts if each.rung == "reboot"), DAY_SECONDS))
    if spent >= budget:
        return f"{spent} of {budget} reboots in a day are spent"
    lived = life(ask.node)
    return "" if lived >= DAY_SECONDS else f"reboots may be forgotten: watched for {lived / 3600:.1f} h only"


def _fleet_slot(ask: Ask) -> str:
    settings, node = ask.settings, ask.node
    limited = settings.fleet_max_hosts is not None or settings.fleet_max_ratio is not None
    if not limited:
        return "" if settings.fleet_unguarded else "no limit for the fleet is configured"
    if settings.backend in SCHEDULERS:
        return "no slot of the fleet" if ask.action is not ActionKind.TAKE_SLOT and not ask.case.slot_taken else ""
    fleet = node.around.fleet
    if fleet is None or node.around.fleet_at is None or node.now.boottime - node.around.fleet_at > FLEET_FRESH_SECONDS:
        return "the fleet could not be asked"
    most = settings.fleet_max_hosts
    if most is None:
        most = max(1, int((settings.fleet_max_ratio or 0.0) * fleet.hosts))
    return f"{fleet.hosts_out} other hosts are out, {most} may be" if fleet.hosts_out >= most else ""


def _held_hosts(ask: Ask) -> str:
    if ask.settings.backend not in SCHEDULERS or ask.settings.fleet_unguarded:
        return ""
    held = ask.node.around.surroundings.held_hosts
    if held is None:
        return "how many hosts are held is not known"
    return f"{held} hosts are held for people" if held >= ask.settings.fleet_max_held_hosts else ""


def _other_case(ask: Ask) -> str:
    for other in ask.node.remedy.cases.values():
        if other.id != ask.case.id and has_host(other):
            return f"case {other.id} is {other.state.value} on this host"
    return ""


def _peers(ask: Ask) -> str:
    return "an NVLink peer is at work" if peers_busy(ask.node, ask.case) is not False else ""


def _boot_grace(ask: Ask) -> str:
    grace = ask.settings.boot_grace_seconds
    return f"the host is up for less than {grace:.0f} s" if ask.node.now.boottime < grace else ""


def _uptime(ask: Ask) -> str:
    least = ask.settings.min_uptime_before_reboot_seconds
    return f"the host is up for less than {least:.0f} s" if ask.node.now.boottime < least else ""


def _correlated(ask: Ask) -> str:
    """Hold what has come over many hosts at once, until a person says it is no fault of the fleet's."""
    if not ask.settings.fleet_query or ask.case.approved:
        return ""
    fleet, at = ask.node.around.fleet, ask.node.around.fleet_at
    if fleet is None or at is None or ask.node.now.boottime - at > FLEET_FRESH_SECONDS:
        return "whether other hosts have the same could not be asked"
    hosts = fleet.hosts_with.get(ask.case.kind, 0)
    many = hosts >= _AT_LEAST_HOSTS and hosts > ask.settings.correlated_ratio * fleet.hosts
    return f"{hosts} of {fleet.hosts} hosts have {ask.case.kind}: approve it first" if many else ""


def _journal(ask: Ask) -> str:
    writable = ask.node.journal_writable
    return "" if writable else f"the journal cannot be written: {ask.node.journal_detail}"


def _durable(ask: Ask) -> str:
    memory = ask.node.around.memory
    return "" if memory.durable else f"the journal may not outlive a reboot: {memory.detail}"


def _actuator(ask: Ask) -> str:
    around = ask.node.around
    if not around.surroundings.actuator_up:
        return f"the actuator does not answer: {around.surroundings.detail}"
    stale = around.seen_at is None or ask.node.now.boottime - around.seen_at > LOOK_FRESH_SECONDS
    return "the actuator has not been heard of lately" if stale else ""


def _identity(ask: Ask) -> str:
    if ask.settings.backend not in SCHEDULERS or ask.node.around.surroundings.identity is True:
        return ""
    return "the scheduler's node is not provably this host"


def _drill(ask: Ask) -> str:
    """Hold what a drill must not do; and everything where nobody announced one: anybody can write such a line."""
    if not ask.case.drill:
        return ""
    if ask.action in DISRUPTIVE:
        return "a drill isolates at most"
    return "" if ask.node.drill else "not the kernel's word, and no drill is announced"


ENDS_WITH_A_PERSON = frozenset({"gpu_budget", "host_budget", "durable"})
"""Guards that say that nothing more may be done here, not that it is too early."""

GUARDS: tuple[Guard, ...] = (
    Guard("mode", FORWARD, _mode),
    Guard("stop", FORWARD, _stop),
    Guard("pause", FORWARD, _pause),
    Guard("operator_hold", FORWARD, _operator_hold),
    Guard("drill", FORWARD, _drill),
    Guard("approval", FORWARD, _approval),
    Guard("boot_grace", FORWARD, _boot_grace),
    Guard("other_case", FORWARD, _other_case),
    Guard("maintenance_window", DISRUPTIVE, _window),
    Guard("cool_down", DISRUPTIVE, _cool_down),
    Guard("gpu_budget", DISRUPTIVE, _gpu_budget),
    Guard("host_budget", frozenset({ActionKind.REBOOT}), _host_budget),
    Guard("uptime", frozenset({ActionKind.REBOOT}), _uptime),
    Guard("peers", frozenset({ActionKind.RESET}), _peers),
    Guard("correlated", DISRUPTIVE, _correlated),
    Guard("fleet_slot", FORWARD, _fleet_slot),
    Guard("held_hosts", _OUT, _held_hosts),
    Guard("identity", EVERY, _identity),
    Guard("durable", frozenset({ActionKind.REBOOT}), _durable),
    Guard("journal", EVERY, _journal),
    Guard("actuator", EVERY, _actuator),
)
