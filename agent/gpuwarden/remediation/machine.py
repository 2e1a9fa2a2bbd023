"""The state machine of a case: a table of states, with the transitions each allows and the function that takes one.

    OPENED -> WAITING -> ISOLATING -> ACTING -> VERIFYING -> SOAKING -> RELEASING -> CLOSED
                 ^                                  |           |
                 +---- the next attempt or rung ----+-----------+          HELD: a person decides, and only a person

Each call makes at most one transition or one intent. What holds after every step (`invariants`):

1. At most one case has the host to itself, and at most one disruptive effect is under way.
2. An intent is of a state that may have it, and is the only one of its case.
3. A case is released by proof, by an operator's word, or because nothing was done: never for want of time.
4. What was taken is given back before a case closes.
5. A drill disrupts nothing.

An effect is never begun here: an intent is made, its step is written to disk, and only then is anybody asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from gpuwarden.model.case import (
    DISRUPTIVE,
    NOT_READ,
    SCHEDULERS,
    ActionKind,
    Attempt,
    Case,
    CaseState,
    Intent,
    Outcome,
    Rung,
    Urgency,
)
from gpuwarden.model.snapshot import NodeState
from gpuwarden.model.stamp import Stamp
from gpuwarden.policy.guards import ENDS_WITH_A_PERSON, Ask, Holding, has_host, has_taken, holding, life
from gpuwarden.policy.ladder import treatment_of
from gpuwarden.policy.scope import work_gone
from gpuwarden.remediation.verify import incidents_of, is_open, unproven

_S, _A = CaseState, ActionKind
_SHORT_SECONDS = 60.0  # for scheduler calls and slots, which have deadlines of their own
_OVERDUE_SECONDS = 120.0  # past an intent's deadline: whoever was asked will not tell any more
_RETRY_SECONDS = (10.0, 30.0, 60.0, 300.0)
_FRESH_SECONDS = 30.0  # how old a look may be by which work is ended
_REFUSALS_AT_MOST = 3  # a stop switch or a limit of whoever acts refuses for a while, a platform for ever
_SOAKS_AT_MOST = 5  # a soak that unknown readings start anew does not go on for ever
_PROOF_OF_NOTHING_SECONDS = 600.0

ACTS = DISRUPTIVE - {_A.EVICT}
"""Actions of rungs: what is to be proven afterwards, and what budgets count."""

ALLOWED: dict[CaseState, frozenset[CaseState]] = {
    _S.OPENED: frozenset({_S.WAITING}),
    _S.WAITING: frozenset({_S.ISOLATING, _S.VERIFYING, _S.RELEASING, _S.HELD, _S.CLOSED}),
    _S.ISOLATING: frozenset({_S.ACTING, _S.VERIFYING, _S.RELEASING, _S.HELD}),
    _S.ACTING: frozenset({_S.VERIFYING, _S.WAITING, _S.HELD, _S.RELEASING}),
    _S.VERIFYING: frozenset({_S.SOAKING, _S.WAITING, _S.RELEASING}),
    _S.SOAKING: frozenset({_S.RELEASING, _S.WAITING, _S.HELD}),
    _S.RELEASING: frozenset({_S.CLOSED, _S.WAITING}),
    _S.HELD: frozenset({_S.RELEASING}),
    _S.CLOSED: frozenset(),
}

MAY_INTEND: dict[CaseState, frozenset[ActionKind]] = {
    _S.ISOLATING: frozenset({_A.TAKE_SLOT, _A.ISOLATE, _A.EVICT}),
    _S.ACTING: ACTS,
    _S.RELEASING: frozenset({_A.RELEASE, _A.RETURN_SLOT}),
    _S.HELD: frozenset({_A.RETURN_SLOT}),
}


class Move(NamedTuple):
    """What one look at a case comes to: the case as it is now, an effect that is wanted, one that would have been."""

    case: Case
    intent: Intent | None = None
    attempt: Attempt | None = None
    held: tuple[Holding, ...] = ()
    action: ActionKind | None = None  # what the guards held, or what a shadow would have done


def advance(node: NodeState, case: Case) -> Move:
    """Return the next move of a case; the same case where there is none."""
    if case.intent is not None:
        return _overdue(node, case)
    return _TAKE[case.state](node, case)


def ended(node: NodeState, case: Case, outcome: Outcome, detail: str) -> Case:
    """Return a case after the outcome of its intent."""
    intent = case.intent
    assert intent is not None
    case = replace(case, intent=None)
    if intent.action in ACTS and outcome is not Outcome.REFUSED:
        acted = node.now if intent.made.boot_id == node.now.boot_id else intent.made
        case = replace(
            case, acts=case.acts + 1, last_act=intent.action, begun=intent.made, acted=acted, tried=True, refusals=0
        )
    return _AFTER[intent.action](node, case, outcome, detail)


def begins(node: NodeState, case: Case) -> Case:
    """Return a case whose intent was made in another boot: a reboot that was asked for has come about."""
    intent = case.intent
    if intent is None or intent.made.boot_id == node.now.boot_id:
        return case
    if intent.action is _A.REBOOT:
        return ended(node, replace(case, rebooted=True), Outcome.DONE, "the host came up in another boot")
    return ended(node, case, Outcome.EFFECT_UNKNOWN, "the host rebooted meanwhile")


def rung_of(case: Case) -> Rung:
    """Return the rung a case stands on; the last one where it is past the end."""
    rungs = case.treatment.rungs
    return rungs[min(case.rung, len(rungs) - 1)]


def _to(node: NodeState, case: Case, state: CaseState, why: str, **changes: object) -> Case:
    assert state in ALLOWED[case.state], f"{case.state} -> {state}"
    begun = {"state": state, "since": node.now, "why": why, "guards": (), "retry_at": None, "tries": 0}
    return replace(case, **(begun | changes))


def _too_early(node: NodeState, case: Case) -> bool:
    at = case.retry_at
    return at is not None and at.boot_id == node.now.boot_id and node.now.boottime < at.boottime


def _in(node: NodeState, seconds: float) -> Stamp:
    return Stamp(node.now.boot_id, node.now.boottime + seconds, node.now.wall + seconds)


def _over(node: NodeState, case: Case) -> bool:
    """Return whether nothing is left of what the case is about. What cannot be seen is not over."""
    incidents = incidents_of(node, case)
    return not incidents or not any(is_open(node, case, incident) for incident in incidents)


# ---- the states


def _opened(node: NodeState, case: Case) -> Move:
    return Move(_to(node, case, _S.WAITING, "opened"))


def _waiting(node: NodeState, case: Case) -> Move:
    nothing_of_ours = not has_taken(case)
    if case.forgotten:
        return Move(_forget(node, case))
    if case.cancelled:
        return Move(_cancelled(node, case))
    if _over(node, case):
        if nothing_of_ours and not case.acts:
            return Move(_to(node, case, _S.CLOSED, "over before anything was done", free_by="nothing_done"))
        if rung_of(case).action is None and case.acts:
            return Move(_to(node, case, _S.HELD, f"over, but not proven: {case.why}"))
        if any(has_host(other) for other in node.remedy.cases.values() if other.id != case.id):
            return Move(replace(case, guards=("other_case",)) if case.guards != ("other_case",) else case)
        return Move(_to(node, case, _S.VERIFYING, "over: to be proven", acted=case.acted or node.now))
    if rung_of(case).action is None and (not nothing_of_ours or not _isolates(node)) and not case.drill:
        return Move(_to(node, case, _S.HELD, "the ladder ends here"))
    if _too_early(node, case):
        return Move(case)
    first = _first_step(node, case)
    held = holding(Ask(node, case, first, rung_of(case)))
    if case.drill and ({each.guard for each in held} == {"drill"} or not _isolates(node)):
        why = "a drill that has nothing to do"
        return Move(_to(node, case, _S.RELEASING, why, free_by="drill"), held=held, action=first)
    if held:
        final = first is rung_of(case).action and not case.drill
        return (_held_for_good(node, case, held) if final else None) or _held(case, held, first)
    since = case.isolating_since
    since = since if since is not None and since.boot_id == node.now.boot_id else node.now
    return Move(_to(node, case, _S.ISOLATING, "the way is free", isolating_since=since))


def _forget(node: NodeState, case: Case) -> Case:
    """Return a case without a GPU: nothing is left to be proven, and what was taken is given back."""
    return _to(node, case, _S.RELEASING, "its GPU was forgotten by an operator", free_by="operator")


def _cancelled(node: NodeState, case: Case) -> Case:
    """Return a case that an operator cancelled: what was begun is left to people, what was only taken is given back."""
    if case.acts:
        return _to(node, case, _S.HELD, "cancelled after something was done")
    return _to(node, case, _S.RELEASING, "cancelled", free_by="cancelled")


def _isolated_by_others(node: NodeState, case: Case) -> bool:
    """Return whether no new work comes because somebody else saw to that: theirs to undo, and enough for us.

    A look from before this case began to isolate may show what was released since.
    """
    around = node.around.surroundings
    return _looked_since(node, case.since) and around.isolated is True and around.mark != case.mark


def _closed_to_work(node: NodeState, case: Case) -> bool:
    """Return whether no new work can begin: always so, as far as can be told, where nothing isolates."""
    return not _isolates(node) or case.isolated or node.around.surroundings.isolated is True


def _work_gone(node: NodeState, case: Case, action: ActionKind) -> bool | None:
    """Return whether nothing is at work, by a look from after the host was closed to new work.

    An older look does not show what began between it and the drain.
    """
    seen_at, now = node.around.seen_at, node.now
    closed = case.isolated_at if case.isolated else case.since if case.state is _S.ISOLATING else None
    if seen_at is None or now.boottime - seen_at > _FRESH_SECONDS:
        return None
    closed = closed if closed is not None and closed.boot_id == now.boot_id else None
    if closed is not None and seen_at < closed.boottime:
        return None
    return work_gone(node, case, action, closed.boottime if closed is not None else None)


def _taken_back(node: NodeState, case: Case) -> bool:
    """Return whether our isolation was undone by somebody: seen after it stood."""
    back = node.around.surroundings.isolated is False
    return case.isolated and back and _looked_since(node, case.isolated_at)


def _isolates(node: NodeState) -> bool:
    return node.settings.remedy.backend != "none"


def _takes_slots(node: NodeState) -> bool:
    settings = node.settings.remedy
    limited = settings.fleet_max_hosts is not None or settings.fleet_max_ratio is not None
    return settings.backend in SCHEDULERS and limited


def _first_step(node: NodeState, case: Case) -> ActionKind:
    """Return what has to be done first for the present rung."""
    if _takes_slots(node) and not case.slot_taken:
        return _A.TAKE_SLOT
    if _isolates(node) and not case.isolated:
        return _A.ISOLATE
    return rung_of(case).action or _A.ISOLATE


def _isolating(node: NodeState, case: Case) -> Move:
    if case.forgotten:
        return Move(_forget(node, case))
    if case.cancelled:
        return Move(_cancelled(node, case))
    if case.drill and (case.isolated or not node.drill or _over(node, case)):
        return Move(_to(node, case, _S.RELEASING, "a drill ends with its isolation", free_by="drill"))
    if _taken_back(node, case):
        return Move(_to(node, case, _S.HELD, "somebody let work back onto the host", isolated=False))
    if _over(node, case):
        return Move(_to(node, case, _S.VERIFYING, "over: to be proven", acted=case.acted or node.now))
    if _too_early(node, case):
        return Move(case)
    if _takes_slots(node) and not case.slot_taken:
        return _intend(node, case, _A.TAKE_SLOT)
    if _isolates(node) and not case.isolated and not _isolated_by_others(node, case):
        return _intend(node, case, _A.ISOLATE)
    if case.drill:
        return Move(_to(node, case, _S.RELEASING, "a drill: somebody else has isolated the host", free_by="drill"))
    rung = rung_of(case)
    if rung.action is None:
        return Move(_to(node, case, _S.HELD, "out of service until a person decides"))
    if rung.action is _A.STOP_WORKLOAD or _work_gone(node, case, rung.action):
        return Move(_to(node, case, _S.ACTING, f"nothing is in the way of {rung.name}"))
    return _wait_for_work(node, case, rung)


def _looked_since(node: NodeState, moment: Stamp | None) -> bool:
    """Return whether the surroundings were seen after a moment; every look of this boot is after one of an earlier."""
    seen_at = node.around.seen_at
    if seen_at is None or moment is None:
        return False
    return moment.boot_id != node.now.boot_id or seen_at >= moment.boottime


def _wait_for_work(node: NodeState, case: Case, rung: Rung) -> Move:
    """Wait for what is at work. Only where it is dead anyway does this end, and by default with a person."""
    settings = node.settings.remedy
    since = case.isolating_since
    if since is None or since.boot_id != node.now.boot_id:
        return Move(replace(case, isolating_since=node.now))
    waited = node.now.boottime - since.boottime
    late = case.treatment.urgency is Urgency.NOW and waited >= settings.deadline_seconds
    waiting = replace(case, why=f"waiting for what is at work before {rung.name}", guards=())
    if not late:
        return Move(waiting if waiting != case else case)
    if settings.on_deadline == "hold" or case.evicted or settings.backend not in SCHEDULERS:
        return Move(_to(node, case, _S.HELD, f"still at work after {settings.deadline_seconds:.0f} s"))
    return _intend(node, case, _A.EVICT)


def _acting(node: NodeState, case: Case) -> Move:
    rung = rung_of(case)
    assert rung.action is not None
    if case.forgotten:
        return Move(_forget(node, case))
    if case.cancelled:
        return Move(_cancelled(node, case))
    if _taken_back(node, case):
        return Move(_to(node, case, _S.HELD, "somebody let work back onto the host", isolated=False))
    if _over(node, case):
        return Move(_to(node, case, _S.VERIFYING, "over: to be proven", acted=case.acted or node.now))
    if node.around.seen_at is None or node.around.stop_detail == NOT_READ:
        return Move(case)  # just started: nothing was looked at yet, and what was announced stays so
    if not _closed_to_work(node, case):
        return Move(_to(node, case, _S.WAITING, "the host is open to new work again"))
    if rung.action is not _A.STOP_WORKLOAD and _work_gone(node, case, rung.action) is not True:
        return Move(_to(node, case, _S.WAITING, f"something may be at work again before {rung.name}"))
    held = holding(Ask(node, case, rung.action, rung))
    if held:  # an announcement is withdrawn: what is done later is announced anew
        return _held_for_good(node, case, held) or _held(replace(case, retry_at=None), held, rung.action)
    announced = case.retry_at is not None and case.retry_at.boot_id == node.now.boot_id
    if rung.action is _A.REBOOT and not announced:
        return Move(replace(case, retry_at=_in(node, node.settings.remedy.announce_seconds), guards=()))
    if _too_early(node, case):
        return Move(case)
    return _intend(node, case, rung.action)


def _held_for_good(node: NodeState, case: Case, held: tuple[Holding, ...]) -> Move | None:
    """Return a case that time will not let on: unless somebody has stopped everything, a person takes it from here."""
    names = {each.guard for each in held}
    if not names & ENDS_WITH_A_PERSON or names & {"mode", "stop", "pause", "operator_hold"}:
        return None
    why = "; ".join(each.why for each in held if each.guard in ENDS_WITH_A_PERSON)
    return Move(_to(node, case, _S.HELD, why), held=held, action=rung_of(case).action)


def _verifying(node: NodeState, case: Case) -> Move:
    if case.forgotten:
        return Move(_forget(node, case))
    asked_in = case.acted.boot_id if case.acted is not None else node.now.boot_id
    if case.last_act is _A.REBOOT and asked_in != node.now.boot_id and not case.rebooted:
        return Move(replace(case, rebooted=True))
    missing = unproven(node, case, case.last_act)
    if not missing:
        return Move(_to(node, case, _S.SOAKING, "proven", proven_since=node.now, missing_proofs=()))
    names = tuple(name for name, _ in missing)
    if node.now.boottime - case.since.boottime > _proof_seconds(case) and case.since.boot_id == node.now.boot_id:
        return Move(_next(node, case, f"not proven: {', '.join(names)}"))
    if case.since.boot_id != node.now.boot_id:  # what was to be proven is to be proven in this boot
        return Move(replace(case, since=node.now, missing_proofs=names))
    return Move(replace(case, missing_proofs=names) if names != case.missing_proofs else case)


def _soaking(node: NodeState, case: Case) -> Move:
    if case.forgotten:
        return Move(_forget(node, case))
    missing = unproven(node, case, case.last_act)
    refuted = tuple(name for name, answer in missing if answer is False)
    if refuted:
        return Move(_next(node, case, f"refuted while soaking: {', '.join(refuted)}"))
    began = case.proven_since
    if missing or began is None or began.boot_id != node.now.boot_id:
        spent = node.now.boottime - case.since.boottime
        if case.since.boot_id == node.now.boot_id and spent > _proof_seconds(case) + _SOAKS_AT_MOST * _soak(case):
            return Move(_next(node, case, f"could not be seen any more: {', '.join(name for name, _ in missing)}"))
        return Move(replace(case, proven_since=node.now, missing_proofs=tuple(name for name, _ in missing)))
    if node.now.boottime - began.boottime < _soak(case):
        return Move(replace(case, missing_proofs=()) if case.missing_proofs else case)
    if case.cancelled and case.acts:
        return Move(_to(node, case, _S.HELD, "repaired, but cancelled: a person releases it"))
    return Move(_to(node, case, _S.RELEASING, "proven and soaked", free_by="proof"))


def _releasing(node: NodeState, case: Case) -> Move:
    if case.isolated and case.free_by == "proof" and not case.forgotten:
        refuted = [name for name, answer in unproven(node, case, case.last_act) if answer is False]
        if refuted:
            return Move(replace(_next(node, case, f"refuted before release: {', '.join(refuted)}"), free_by=""))
    if _too_early(node, case):
        return Move(case)
    if case.isolated or case.isolation_doubtful:
        return _intend(node, case, _A.RELEASE)
    if case.slot_taken or case.slot_doubtful:
        return _intend(node, case, _A.RETURN_SLOT)
    return Move(_to(node, case, _S.CLOSED, f"given back: {case.free_by}"))


def _being_held(node: NodeState, case: Case) -> Move:
    if case.forgotten:
        return Move(_forget(node, case))
    if (case.slot_taken or case.slot_doubtful) and not _too_early(node, case):
        return _intend(node, case, _A.RETURN_SLOT)
    return Move(case)


def _closed(_: NodeState, case: Case) -> Move:
    return Move(case)


_TAKE: dict[CaseState, Callable[[NodeState, Case], Move]] = {
    _S.OPENED: _opened,
    _S.WAITING: _waiting,
    _S.ISOLATING: _isolating,
    _S.ACTING: _acting,
    _S.VERIFYING: _verifying,
    _S.SOAKING: _soaking,
    _S.RELEASING: _releasing,
    _S.HELD: _being_held,
    _S.CLOSED: _closed,
}


# ---- intents and their outcomes


def _held(case: Case, held: tuple[Holding, ...], action: ActionKind) -> Move:
    names = tuple(each.guard for each in held)
    later = replace(case, guards=names, why="; ".join(each.why for each in held))
    return Move(later, held=held, action=action)


def _intend(node: NodeState, case: Case, action: ActionKind) -> Move:
    """Return a case with an intent, or held by its guards."""
    rung = rung_of(case)
    held = holding(Ask(node, case, action, rung))
    if held:
        return _held(case, held, action)
    mark = case.mark or f"gpuwarden {case.id} {case.kind} gpu{'' if case.gpu is None else case.gpu}"
    intent = Intent(
        id=f"{case.id}/{case.rung}.{case.attempt}.{case.asks}/{action.value}",
        case=case.id,
        action=action,
        made=node.now,
        uuid=case.uuid,
        bdf=case.bdf,
        serial=case.serial,
        command=rung.command if action is _A.COMMAND else "",
        mark=mark,
        deadline_seconds=rung.deadline_seconds if action in DISRUPTIVE else _SHORT_SECONDS,
        before=rung.action if action is _A.EVICT else None,
        resume=action is _A.RELEASE and case.rebooted,
    )
    case = replace(case, intent=intent, guards=(), mark=mark, asks=case.asks + 1)
    attempt = None
    if action in ACTS:
        attempt = Attempt(
            uuid=case.uuid or "", serial=case.serial, kind=case.kind, rung=rung.name, at=node.now, life=life(node)
        )
    return Move(case, intent, attempt, action=action)


def _overdue(node: NodeState, case: Case) -> Move:
    """Give up on hearing of an intent; in another boot than its own it has ended with the boot."""
    intent = case.intent
    assert intent is not None
    if intent.made.boot_id != node.now.boot_id:
        return Move(begins(node, case))
    if node.now.boottime - intent.made.boottime <= intent.deadline_seconds + _OVERDUE_SECONDS:
        return Move(case)
    return Move(ended(node, case, Outcome.EFFECT_UNKNOWN, "nothing was heard of it"))


def _later(node: NodeState, case: Case, why: str) -> Case:
    """Return a case that tries the same again after a pause that grows, as a new intent."""
    pause = _RETRY_SECONDS[min(case.tries, len(_RETRY_SECONDS) - 1)]
    return replace(case, tries=case.tries + 1, retry_at=_in(node, pause), why=why)


def _after_slot(node: NodeState, case: Case, outcome: Outcome, detail: str) -> Case:
    if outcome is Outcome.DONE:
        return replace(case, slot_taken=True, slot_doubtful=False, isolating_since=node.now, tries=0, why="slot taken")
    if outcome is Outcome.EFFECT_UNKNOWN:  # it may be ours, which is no leave to isolate: ask again
        return _later(node, replace(case, slot_doubtful=True), f"slot in doubt: {detail}")
    return _later(node, case, f"no slot: {detail}")


def _after_isolate(node: NodeState, case: Case, outcome: Outcome, detail: str) -> Case:
    if outcome is Outcome.DONE:
        return replace(  # what is at work has its whole time from here on, however long a slot was waited for
            case,
            isolated=True,
            isolation_doubtful=False,
            isolated_at=node.now,
            isolating_since=node.now,
            tries=0,
            why="isolated",
        )
    if outcome is Outcome.EFFECT_UNKNOWN:  # it may stand there: ask again, which changes nothing if it does
        return _later(node, replace(case, isolation_doubtful=True), f"isolation in doubt: {detail}")
    return _later(node, case, f"not isolated: {detail}")


def _after_evict(node: NodeState, case: Case, outcome: Outcome, detail: str) -> Case:
    return replace(case, evicted=True, isolating_since=node.now, why=f"eviction {outcome.value}: {detail}")


def _after_action(node: NodeState, case: Case, outcome: Outcome, detail: str) -> Case:
    name = rung_of(case).name
    if outcome is Outcome.REFUSED:
        return _refused(node, case, f"{name} refused: {detail}")
    if outcome is Outcome.FAILED:
        return _next(node, case, f"{name} failed: {detail}")
    why = f"{rung_of(case).name} {outcome.value}" + (f": {detail}" if detail else "")
    return _to(node, case, _S.VERIFYING, why, proven_since=None)


def _refused(node: NodeState, case: Case, why: str) -> Case:
    """Return a case of which nothing was begun. Asked again after a pause: only what is refused each time climbs."""
    case = replace(case, refusals=case.refusals + 1)
    if case.refusals >= _REFUSALS_AT_MOST:
        return _next(node, replace(case, tried=True), why, climb=True)
    pause = _RETRY_SECONDS[case.refusals - 1]
    return _to(node, case, _S.WAITING, why, retry_at=_in(node, pause))


def _after_release(node: NodeState, case: Case, outcome: Outcome, detail: str) -> Case:
    if outcome is Outcome.DONE:
        return replace(case, isolated=False, isolation_doubtful=False, tries=0)
    if outcome is Outcome.REFUSED:  # not ours any more: whoever took it over decides
        return replace(case, isolated=False, isolation_doubtful=False, tries=0, why=f"left alone: {detail}")
    return _later(node, case, f"not released yet: {detail}")


def _after_return(node: NodeState, case: Case, outcome: Outcome, detail: str) -> Case:
    if outcome in (Outcome.DONE, Outcome.REFUSED):
        return replace(case, slot_taken=False, slot_doubtful=False, tries=0)
    return _later(node, case, f"slot not returned yet: {detail}")


_AFTER: dict[ActionKind, Callable[[NodeState, Case, Outcome, str], Case]] = {
    _A.TAKE_SLOT: _after_slot,
    _A.ISOLATE: _after_isolate,
    _A.EVICT: _after_evict,
    _A.STOP_WORKLOAD: _after_action,
    _A.RESET: _after_action,
    _A.REBOOT: _after_action,
    _A.COMMAND: _after_action,
    _A.RELEASE: _after_release,
    _A.RETURN_SLOT: _after_return,
}


def _next(node: NodeState, case: Case, why: str, *, climb: bool = False) -> Case:
    """Return a case at its next attempt, or on the next rung; where this one was not tried yet, on this one."""
    case = _to(node, case, _S.WAITING, why, proven_since=None, missing_proofs=())
    if not case.tried:
        return case
    again = not climb and case.attempt + 1 < rung_of(case).attempts
    rung, attempt = (case.rung, case.attempt + 1) if again else (case.rung + 1, 0)
    last = len(case.treatment.rungs) - 1
    rung = last if not again and _beyond_help(node, case) else min(rung, last)
    fresh = {"rung": rung, "attempt": attempt, "approved": again and case.approved, "told_shadow": False}
    return replace(case, tried=False, refusals=0, **fresh)


def _beyond_help(node: NodeState, case: Case) -> bool:
    """Return whether all that is left wrong with a GPU is what only a person can mend: nothing heavier helps it."""
    left = [incident for incident in incidents_of(node, case) if is_open(node, case, incident)]
    rungs = [treatment_of(incident, node.settings.remedy.ladder).rungs for incident in left]
    return bool(left) and all(each and each[0].action is None for each in rungs)


def _proof_seconds(case: Case) -> float:
    return rung_of(case).proof_seconds if case.acts else _PROOF_OF_NOTHING_SECONDS


def _soak(case: Case) -> float:
    return rung_of(case).soak_seconds


# ---- what must hold after every step


def invariants(node: NodeState) -> Iterator[str]:
    """Yield what is wrong with the cases of a node: nothing, ever."""
    cases = list(node.remedy.cases.values())
    alone = [case.id for case in cases if has_host(case)]
    if len(alone) > 1:
        yield f"several cases have the host to themselves: {', '.join(alone)}"
    disruptive = [case.id for case in cases if case.intent is not None and case.intent.action in DISRUPTIVE]
    if len(disruptive) > 1:
        yield f"several disruptive effects are under way: {', '.join(disruptive)}"
    for case in cases:
        yield from _of_case(case)


def _of_case(case: Case) -> Iterator[str]:
    intent = case.intent
    if intent is not None and intent.action not in MAY_INTEND.get(case.state, frozenset()):
        yield f"{case.id} intends {intent.action.value} while {case.state.value}"
    if intent is not None and intent.action in DISRUPTIVE and case.drill:
        yield f"{case.id} is a drill and intends {intent.action.value}"
    if case.state is _S.RELEASING and not case.free_by:
        yield f"{case.id} is released by nobody"
    if case.state is _S.RELEASING and case.free_by == "proof" and case.proven_since is None:
        yield f"{case.id} is released without proof"
    if case.state is _S.RELEASING and case.free_by in ("cancelled", "drill") and case.acts:
        yield f"{case.id} is released unproven after something was done"
    if case.state is _S.CLOSED and (has_taken(case) or intent is not None):
        yield f"{case.id} is closed and has something left to give back"
