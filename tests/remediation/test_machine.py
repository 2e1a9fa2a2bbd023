"""How a case moves, against an outside that does what is asked, or does not."""

from __future__ import annotations

import pytest

from gpuwarden.model.case import ActionKind, CaseState, Intent, Outcome
from gpuwarden.model.observation import OperatorAsked, OperatorVerb
from gpuwarden.model.settings import RemedySettings
from support.story import uuid
from support.ward import ENFORCE, Ward, enforcing


def test_a_reset_ends_the_case_by_proof() -> None:
    """Isolate, act, verify, soak, release: in that order, each once, and nothing is left behind."""
    ward = Ward()
    ward.run(30)
    ward.fault(0, 95, cured_by=ActionKind.RESET)
    ward.run(600)
    assert ward.errors == []
    assert ward.effects() == ["take_slot", "isolate", "reset", "release", "return_slot"]
    assert ward.course() == [
        "opened", "waiting", "isolating", "acting", "verifying", "soaking", "releasing", "closed",
    ]  # fmt: skip
    assert (ward.mark, ward.slot, ward.node.remedy.cases, ward.node.incidents) == ("", False, {}, {})


def test_a_fallen_gpu_is_rebooted_and_the_case_goes_on_after_it() -> None:
    """The reboot is proven by another boot id, and the release says that it was ours."""
    ward = Ward()
    ward.run(30)
    ward.fault(1, 79, cured_by=ActionKind.REBOOT)
    ward.run(3000)
    assert ward.errors == []
    assert ward.effects() == ["take_slot", "isolate", "reboot", "release", "return_slot"]
    assert ward.done[3].intent.resume
    assert ward.boots == 1
    assert ward.node.remedy.cases == {}


def test_what_helps_nothing_ends_with_a_person() -> None:
    """Reset, then reboot, then held: isolated, the slot given back, and no way out but an operator's."""
    ward = Ward()
    ward.run(30)
    ward.fault(0, 95, cured_by=None)
    ward.run(9000)
    assert ward.effects()[:4] == ["take_slot", "isolate", "reset", "reboot"]
    assert ward.case.state is CaseState.HELD
    assert ward.mark
    assert not ward.slot


# ---- what must not cost anybody a job


def test_a_job_that_began_before_the_drain_is_seen_before_anything_is_done() -> None:
    """A look from before the host was closed to new work says nothing of what began meanwhile."""
    ward = Ward(tick_seconds=20.0)

    def answer(intent: Intent) -> tuple[Outcome | None, bool]:
        if intent.action is ActionKind.ISOLATE:
            ward.outside[0].jobs = 1  # begins while the drain is asked for
        return Outcome.DONE, True

    ward.answers = answer
    ward.run(40)
    ward.fault(0, 95, cured_by=ActionKind.RESET)
    ward.run(400)
    assert "reset" not in ward.effects()
    ward.outside[0].jobs = 0
    ward.run(60)
    assert ward.effects()[-1] == "reset"


def test_a_slot_in_doubt_is_no_leave_to_isolate_and_is_given_back() -> None:
    """Whether the slot is ours must be known before the host goes out; one that may be ours is not kept."""
    ward = Ward(answers=lambda intent: (Outcome.EFFECT_UNKNOWN, intent.action is not ActionKind.RETURN_SLOT))
    ward.run(30)
    ward.fault(0, 95, cured_by=None)
    ward.run(300)
    assert set(ward.effects()) == {"take_slot"}
    ward.answers = lambda _: (Outcome.DONE, True)
    ward.ask(OperatorVerb.CANCEL, case=ward.case.id)
    ward.run(60)
    assert (ward.effects()[-1], ward.slot, ward.node.remedy.cases) == ("return_slot", False, {})


def test_an_isolation_in_doubt_is_given_back() -> None:
    """The drain landed, nobody heard of it, and the case is cancelled: the mark does not stay behind."""
    ward = Ward(
        answers=lambda intent: (
            (Outcome.EFFECT_UNKNOWN, True) if intent.action is ActionKind.ISOLATE else (Outcome.DONE, True)
        )
    )
    ward.run(30)
    ward.fault(0, 95, cured_by=None)
    ward.run(5)
    assert ward.mark
    ward.ask(OperatorVerb.CANCEL, case=ward.case.id)
    ward.run(60)
    assert (ward.mark, ward.slot, ward.node.remedy.cases) == ("", False, {})


def test_a_stop_that_only_the_one_who_acts_saw_is_no_reason_to_climb() -> None:
    """A refusal is asked again after a pause: a stop switch that came up in between makes no reboot of a reset."""
    refusals = iter([(Outcome.REFUSED, False)])
    ward = Ward(
        answers=lambda intent: (
            next(refusals, (Outcome.DONE, True)) if intent.action is ActionKind.RESET else (Outcome.DONE, True)
        )
    )
    ward.run(30)
    ward.fault(0, 95, cured_by=ActionKind.RESET)
    ward.run(900)
    assert ward.effects() == ["take_slot", "isolate", "reset", "release", "return_slot"]
    assert [each.rung for each in ward.node.remedy.attempts] == ["reset"]  # what was refused costs no budget


def test_what_is_refused_each_time_climbs() -> None:
    """A platform that resets no GPU is not asked for ever."""
    ward = Ward(
        answers=lambda intent: (Outcome.REFUSED, False) if intent.action is ActionKind.RESET else (Outcome.DONE, True)
    )
    ward.run(30)
    ward.fault(0, 95, cured_by=ActionKind.REBOOT)
    ward.run(2400)
    assert "reboot" in ward.effects()
    refused = [e for e in ward.events if e.kind == "action" and (e.name, e.state) == ("reset", "refused")]
    assert len(refused) == 3


def test_a_fault_that_is_over_while_its_action_waits_is_proven_and_not_acted_on() -> None:
    """An approval that comes late finds nothing to do: a healthy GPU is not reset."""
    ward = Ward(remedy=enforcing(actions=ENFORCE | {"reset": "approve"}))
    ward.run(30)
    ward.fault(0, 95, cured_by=ActionKind.RESET)
    ward.run(60)
    assert (ward.case.state, ward.case.guards) == (CaseState.ACTING, ("approval",))
    case = ward.case.id
    ward.outside[0].fault, ward.outside[0].energy_joules = None, 1.0  # somebody reset it by hand
    ward.run(30)
    assert ward.case.state in (CaseState.VERIFYING, CaseState.SOAKING)
    ward.ask(OperatorVerb.APPROVE, case=case)
    ward.run(600)
    assert ward.effects() == ["take_slot", "isolate", "release", "return_slot"]
    assert ward.node.remedy.cases == {}


def test_a_pause_before_a_retry_does_not_outlive_the_boot_it_was_counted_in() -> None:
    """A host that is rebooted by somebody else between two tries of a release goes on at once."""
    ward = Ward(
        answers=lambda intent: (
            (Outcome.FAILED, False) if intent.action is ActionKind.RELEASE and ward.boots == 0 else (Outcome.DONE, True)
        )
    )
    ward.run(30)
    ward.fault(0, 95, cured_by=ActionKind.RESET)
    ward.run(900)
    assert ward.case.state is CaseState.RELEASING
    ward.reboot()
    ward.run(600)
    assert (ward.mark, ward.slot, ward.node.remedy.cases) == ("", False, {})


def test_an_announcement_is_withdrawn_by_what_holds_the_reboot_and_made_anew() -> None:
    """A reboot is expected while it is announced, no longer once it is held, and never comes unannounced."""
    ward = Ward(remedy=enforcing(announce_seconds=60.0))
    ward.run(30)
    ward.fault(0, 79, cured_by=ActionKind.REBOOT)
    ward.run(20)
    assert ward.case.state is CaseState.ACTING
    assert ward.node.remedy.reboot_expected_until > ward.wall
    ward.stopped = True
    ward.run(600)
    assert ward.node.remedy.reboot_expected_until == 0.0
    ward.stopped = False
    ward.run(50)
    assert ward.boots == 0
    assert ward.node.remedy.reboot_expected_until > ward.wall
    ward.run(60)
    assert ward.boots == 1


def test_an_announcement_outlives_a_restart() -> None:
    """The daemon that comes back goes on waiting for as long as was announced, and says so still."""
    ward = Ward(remedy=enforcing(announce_seconds=60.0))
    ward.run(30)
    ward.fault(0, 79, cured_by=ActionKind.REBOOT)
    ward.run(20)
    expected = ward.node.remedy.reboot_expected_until
    ward.restart()
    ward.run(20)
    assert (ward.boots, ward.node.remedy.reboot_expected_until) == (0, expected)
    ward.run(60)
    assert ward.boots == 1


def test_a_host_that_opens_itself_to_work_while_a_reboot_is_announced_is_not_rebooted() -> None:
    """Somebody else had drained it, so nothing of ours stands there; when they let work back, the way is not free."""
    ward = Ward(remedy=enforcing(announce_seconds=120.0))
    ward.mark = "admin: maintenance"
    ward.run(30)
    ward.fault(0, 79, cured_by=ActionKind.REBOOT)
    ward.run(60)
    assert (ward.case.state, ward.case.isolated) == (CaseState.ACTING, False)
    ward.mark = ""
    ward.run(20)
    assert ward.boots == 0
    assert ward.case.isolated  # by us now


def test_what_was_decided_a_while_ago_is_not_begun_after_a_restart() -> None:
    """Written down, never asked for, and the daemon came back an hour later: the reset is in doubt, not due."""
    ward = Ward()
    ward.run(30)
    ward.crash_after = lambda point: (
        point == "write"
        and bool(
            (case := next(iter(ward.node.remedy.cases.values()), None))
            and case.intent
            and case.intent.action is ActionKind.RESET
            and ward.go_down(1200.0)
        )
    )
    ward.fault(0, 95, cured_by=ActionKind.RESET)
    ward.run(20)
    ward.crash_after = lambda _: False
    ward.outside[0].jobs = 1
    ward.run(20)
    assert "reset" not in ward.effects()


# ---- drills, and what anybody can write


def test_a_forged_line_leads_to_nothing_but_words() -> None:
    """Not even isolation: a case says that it has nothing to do, ends, and does not come again."""
    ward = Ward()
    ward.run(30)
    ward.fault(0, 79, cured_by=None, from_kernel=False)
    ward.run(1200)
    assert ward.done == []
    assert ward.course() == ["opened", "waiting", "releasing", "closed"]
    assert ("xid.xid_79", uuid(0)) in ward.node.incidents  # it is paged, as what it is


def test_an_announced_drill_isolates_once_and_undoes_itself() -> None:
    """One drain, one release, and the case is not opened again while the drill lasts."""
    ward = Ward()
    ward.run(30)
    ward.drill(True)
    ward.fault(0, 95, cured_by=None, from_kernel=False)
    ward.run(1200)
    assert ward.effects() == ["take_slot", "isolate", "release", "return_slot"]
    assert ward.course().count("opened") == 1


def test_a_forged_line_does_not_come_between_a_real_case_and_its_proof() -> None:
    """It joins no real case: what anybody could have written refutes nothing, and so makes nothing climb."""
    ward = Ward()
    ward.run(30)
    ward.fault(0, 95, cured_by=ActionKind.RESET)
    ward.run(60)
    assert ward.case.state in (CaseState.VERIFYING, CaseState.SOAKING)
    ward.fault(0, 64, cured_by=None, from_kernel=False)
    ward.run(600)
    assert ward.effects() == ["take_slot", "isolate", "reset", "release", "return_slot"]


def test_a_forged_line_does_not_keep_a_real_fault_from_its_treatment() -> None:
    """What would be held for a person as a drill leaves the GPU free for what is real."""
    ward = Ward(remedy=RemedySettings(actions=ENFORCE, fleet_unguarded=True))
    ward.run(30)
    ward.fault(0, 64, cured_by=None, from_kernel=False)
    ward.run(60)
    assert ward.node.remedy.cases == {}
    ward.fault(0, 95, cured_by=ActionKind.RESET)
    ward.run(600)
    assert ward.effects() == ["reset"]


# ---- operators


def test_a_cancelled_case_does_not_come_back_until_its_fault_does() -> None:
    """Cancelled is let be: the same incident opens no further case, one that ended and came again does."""
    ward = Ward()
    ward.outside[0].jobs = 1
    ward.run(30)
    ward.fault(0, 95, cured_by=None)
    ward.run(60)
    ward.ask(OperatorVerb.CANCEL, case=ward.case.id)
    ward.run(600)
    assert (ward.mark, ward.node.remedy.cases) == ("", {})
    assert ward.course().count("opened") == 1
    ward.ask(OperatorVerb.RELEASE, 0)  # dealt with: what is latched ends
    ward.outside[0].fault = None
    ward.run(10)
    assert ("xid.xid_95", uuid(0)) not in ward.node.incidents
    ward.fault(0, 95, cured_by=ActionKind.RESET)
    ward.outside[0].jobs = 0
    ward.run(600)
    assert "reset" in ward.effects()


def test_an_operators_release_is_not_undone_by_what_he_knew_of() -> None:
    """A GPU that is lost and was held: released as it is, it stays released, and is still said to be lost."""
    ward = Ward(remedy=enforcing(ladder={"xid.xid_79": ("hold",), "presence.gpu_lost": ("hold",)}))
    ward.run(30)
    ward.fault(0, 79, cured_by=None)
    ward.run(60)
    assert ward.case.state is CaseState.HELD
    ward.ask(OperatorVerb.RELEASE, 0)
    ward.run(600)
    assert (ward.mark, ward.slot, ward.node.remedy.cases) == ("", False, {})
    assert ("presence.gpu_lost", uuid(0)) in ward.node.incidents


def test_a_fault_that_comes_while_a_case_is_let_go_is_not_closed_with_it() -> None:
    """Between the release and the end of a case an Xid comes: it is a case of its own, not one of what was repaired."""
    ward = Ward()

    def answer(intent: Intent) -> tuple[Outcome | None, bool]:
        if intent.action is ActionKind.RELEASE:
            return Outcome.DONE, True
        return (Outcome.FAILED, False) if intent.action is ActionKind.RETURN_SLOT else (Outcome.DONE, True)

    ward.answers = answer
    ward.run(30)
    ward.fault(0, 95, cured_by=ActionKind.RESET)
    ward.run(400)
    assert (ward.case.state, ward.case.isolated) == (CaseState.RELEASING, False)
    ward.fault(0, 48, cured_by=ActionKind.RESET)
    ward.answers = lambda _: (Outcome.DONE, True)
    ward.run(310)
    assert "xid.xid_48" in ward.case.kinds
    assert ward.course().count("opened") == 2


@pytest.mark.parametrize("seconds", [40, 60, 900], ids=["isolating", "acted", "held"])
def test_a_forgotten_gpu_leaves_nothing_behind(seconds: float) -> None:
    """Forget is an operator's word: the case about the GPU gives back what it took, wherever it stands."""
    ward = Ward(remedy=enforcing(ladder={"xid.xid_79": ("reset", "hold"), "presence.gpu_lost": ("reset", "hold")}))
    ward.outside[0].jobs = 1 if seconds == 40 else 0
    ward.run(30)
    ward.fault(0, 79, cured_by=None)
    ward.run(seconds)
    assert ward.mark
    ward.leave(0)
    ward.run(120)
    assert (ward.mark, ward.slot, ward.node.remedy.cases) == ("", False, {})


def test_a_pause_is_not_ended_by_a_clock_that_jumps() -> None:
    """An hour of pause is an hour, whatever the wall clock does."""
    ward = Ward()
    ward.run(30)
    ward.take(OperatorAsked(at=ward.at, verb=OperatorVerb.PAUSE, until=ward.wall + 3600.0, by="test"))
    ward.wall += 400 * 86_400.0
    ward.fault(0, 95, cured_by=ActionKind.RESET)
    ward.run(3000)
    assert ward.done == []
    ward.run(900)
    assert "reset" in ward.effects()


# ---- budgets, and what ends with a person


def test_a_spent_budget_ends_with_a_person() -> None:
    """Nothing is waited for that would only come tomorrow: the host is out, and somebody is told."""
    ward = Ward(known=False)
    ward.run(30)
    ward.fault(0, 79, cured_by=ActionKind.REBOOT)
    ward.run(120)
    assert ward.case.state is CaseState.HELD
    assert "forgotten" in ward.case.why
    assert (ward.boots, bool(ward.mark), ward.slot) == (0, True, False)


def test_work_that_was_waited_for_without_limit_gets_its_whole_time_when_the_fault_turns_urgent() -> None:
    """Hours of waiting for a job's end do not count against the deadline of what came after."""
    ward = Ward(remedy=enforcing(deadline_seconds=600.0, on_deadline="evict"), tick_seconds=20.0)
    ward.outside[1].jobs = 1
    ward.run(40)
    ward.outside[0].jobs = 1
    ward.fault(0, 63, cured_by=ActionKind.RESET)
    ward.run(4000)
    ward.fault(0, 79, cured_by=ActionKind.REBOOT)
    ward.run(400)
    assert "evict" not in ward.effects()
    ward.run(400)
    assert "evict" in ward.effects()


def test_what_only_a_person_can_mend_is_not_rebooted_for() -> None:
    """A reset ended what it could; that rows can no longer be remapped no reboot ends."""
    ward = Ward()
    ward.run(30)
    ward.outside[0].says = {"row_remap_failed": 1}
    ward.fault(0, 95, cured_by=ActionKind.RESET)
    ward.run(1200)
    assert ward.case.state is CaseState.HELD
    assert ward.effects() == ["take_slot", "isolate", "reset", "return_slot"]


def test_a_budget_that_is_spent_between_two_rungs_ends_with_a_person() -> None:
    """The host is isolated, and the next rung is one that may not be climbed: nobody waits until tomorrow for it."""
    ward = Ward(tick_seconds=20.0, remedy=enforcing(per_gpu_actions_per_day=1))
    ward.run(40)
    ward.fault(0, 95, cured_by=None)
    ward.run(1200)
    assert ward.effects() == ["take_slot", "isolate", "reset", "return_slot"]
    assert ward.case.state is CaseState.HELD


def test_the_wait_for_a_slot_does_not_use_up_the_time_of_what_is_at_work() -> None:
    """Jobs have their whole deadline from the drain on, however long the host stood in line for a slot."""
    ward = Ward(remedy=enforcing(deadline_seconds=1800.0, on_deadline="evict"), tick_seconds=20.0)
    ward.answers = lambda intent: (
        (Outcome.REFUSED, False) if intent.action is ActionKind.TAKE_SLOT else (Outcome.DONE, True)
    )
    ward.outside[0].jobs = 1
    ward.run(40)
    ward.fault(0, 95, cured_by=ActionKind.RESET)
    ward.run(4000)
    ward.answers = lambda _: (Outcome.DONE, True)
    ward.run(1800)
    assert ward.effects() == ["take_slot", "isolate"]
    ward.run(600)
    assert "evict" in ward.effects()
