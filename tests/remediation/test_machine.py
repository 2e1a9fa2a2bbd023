"""How a case moves, against an outside that does what is asked, or does not."""

from __future__ import annotations

from gpuwarden.model.case import ActionKind, CaseState
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
