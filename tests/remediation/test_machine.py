"""How a case moves, against an outside that does what is asked, or does not."""

from __future__ import annotations

from gpuwarden.model.case import ActionKind, CaseState
from gpuwarden.model.observation import OperatorVerb
from support.ward import Ward


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


def test_a_drill_isolates_once_and_undoes_itself() -> None:
    """A forged line of the user's opens at most a drill: one isolation, taken back, and no second case for it."""
    ward = Ward()
    ward.run(30)
    ward.fault(0, 95, cured_by=None, from_kernel=False)
    ward.run(600)
    assert ward.errors == []
    assert ward.effects() == ["take_slot", "isolate", "release", "return_slot"]
    assert (ward.mark, ward.slot, ward.node.remedy.cases) == ("", False, {})


def test_what_was_cancelled_is_left_alone_until_it_comes_anew() -> None:
    """A cancelled case gives back what it took and opens no other; the same fault after a repair does."""
    ward = Ward()
    ward.run(30)
    ward.outside[0].jobs = 1
    ward.fault(0, 95, cured_by=ActionKind.RESET)
    ward.run(30)
    ward.ask(OperatorVerb.CANCEL, case=ward.case.id)
    ward.run(600)
    assert ward.effects() == ["take_slot", "isolate", "release", "return_slot"]
    assert ward.node.remedy.cases == {}
    ward.outside[0].fault, ward.outside[0].jobs, ward.outside[0].energy_joules = None, 0, 1.0
    ward.run(30)
    assert ward.node.incidents == {}
    ward.fault(0, 95, cured_by=ActionKind.RESET)
    ward.run(600)
    assert ward.effects()[4:] == ["take_slot", "isolate", "reset", "release", "return_slot"]
