"""Slots of the fleet on a real slurmctld: one winner each, given back, at rest."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from gpuwarden.actuators.backend import Answer, Backend
from gpuwarden.actuators.slurm import SlurmBackend
from gpuwarden.model.case import ActionKind, Outcome, Surroundings
from support.slurmintent import intent
from support.slurmlab import NODES, SlurmLab, wait

pytestmark = pytest.mark.real

A, O = ActionKind, Outcome  # noqa: E741


def hosts(lab: SlurmLab, where: Path, **budget: object) -> dict[str, Backend]:
    """Return the back ends of all hosts, each with a state directory of its own."""
    sites = {node: lab.site(node, where / node, budget=budget) for node in NODES}
    return {node: SlurmBackend(site) for node, site in sites.items()}


def all_at_once(backends: dict[str, Backend], case: str) -> dict[str, Answer]:
    """Let all hosts take a slot in the same moment."""
    answers: dict[str, Answer] = {}
    line = threading.Barrier(len(backends))

    def take(node: str, backend: Backend) -> None:
        line.wait()
        answers[node] = backend.take_slot(intent(A.TAKE_SLOT, f"{case}-{node}"))

    threads = [threading.Thread(target=take, args=each) for each in backends.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def winners(answers: dict[str, Answer]) -> set[str]:
    return {node for node, answer in answers.items() if answer.outcome is O.DONE}


def test_fifty_rounds_of_everybody_at_once_have_one_winner_each(lab: SlurmLab, tmp_path: Path) -> None:
    """One slot, four hosts, fifty times: the one who is told so has it, and nobody else."""
    backends = hosts(lab, tmp_path, fleet_max_hosts=1, slot_rest_seconds=0.0)
    for number in range(50):
        answers = all_at_once(backends, f"r{number}")
        (winner,) = winners(answers)
        assert {answer.outcome for node, answer in answers.items() if node != winner} == {O.REFUSED}
        assert lab.slots() == {"gpuwarden-slot-0": winner}
        assert backends[winner].return_slot(intent(A.RETURN_SLOT)).outcome is O.DONE
        assert lab.slots() == {}


def test_two_slots_have_two_winners(lab: SlurmLab, tmp_path: Path) -> None:
    """As many as may be out, with a slot each; a ratio of half of four nodes is two."""
    for round_, budget in enumerate(({"fleet_max_hosts": 2}, {"fleet_max_ratio": 0.5})):
        backends = hosts(lab, tmp_path / str(round_), slot_rest_seconds=0.0, **budget)
        won = winners(all_at_once(backends, f"r{round_}"))
        assert len(won) == 2 and set(lab.slots().values()) == won
        for node in won:
            backends[node].return_slot(intent(A.RETURN_SLOT))


def test_a_slot_is_taken_once_however_often_it_is_asked_for(lab: SlurmLab, tmp_path: Path) -> None:
    """Asked twice, one slot; given back twice, both are well."""
    backend = hosts(lab, tmp_path, fleet_max_hosts=3)["n1"]
    for _ in range(2):
        assert backend.take_slot(intent(A.TAKE_SLOT)).outcome is O.DONE
    assert lab.slots() == {"gpuwarden-slot-0": "n1"}
    for _ in range(2):
        assert backend.return_slot(intent(A.RETURN_SLOT)).outcome is O.DONE
    assert lab.slots() == {}


def test_a_slot_rests_after_use(lab: SlurmLab, tmp_path: Path) -> None:
    """Free for work at once, free for another host only after its rest; for its last host, too."""
    backends = hosts(lab, tmp_path, fleet_max_hosts=1, slot_rest_seconds=4.0)
    assert backends["n1"].take_slot(intent(A.TAKE_SLOT)).outcome is O.DONE
    given_back = time.time()
    assert backends["n1"].return_slot(intent(A.RETURN_SLOT)).outcome is O.DONE
    assert lab.slots() == {}
    job = lab.submit("n1", 1)  # the node itself does not rest
    for node in ("n1", "n2"):
        answer = backends[node].take_slot(intent(A.TAKE_SLOT))
        assert answer.outcome is O.REFUSED and "rest" in answer.detail
    wait(lambda: backends["n2"].take_slot(intent(A.TAKE_SLOT)).outcome is O.DONE, "the end of the rest")
    assert time.time() - given_back >= 4.0
    assert lab.slots() == {"gpuwarden-slot-0": "n2"}
    assert lab.job_state(job) in ("RUNNING", "COMPLETED", "COMPLETING")


def test_who_read_the_nodes_before_a_slot_was_given_back_lets_go_of_it(lab: SlurmLab, tmp_path: Path) -> None:
    """Everybody tries while one gives back: nobody gets a slot that rests."""
    backends = hosts(lab, tmp_path, fleet_max_hosts=1, slot_rest_seconds=600.0)
    giver = backends.pop("n1")
    for number in range(15):
        lab.update("n1", "extra=")
        assert giver.take_slot(intent(A.TAKE_SLOT)).outcome is O.DONE
        answers: dict[str, Answer] = {}
        back = threading.Thread(target=lambda: giver.return_slot(intent(A.RETURN_SLOT)))
        back.start()
        answers = all_at_once(backends, f"r{number}")
        back.join()
        assert winners(answers) == set() and lab.slots() == {}


def test_where_extra_is_not_ours_the_slot_rests_on_its_node(lab: SlurmLab, tmp_path: Path) -> None:
    """The reservation gets an end of its own: dearer for the node, and never a slot too many."""
    backends = hosts(lab, tmp_path, fleet_max_hosts=1, slot_rest_seconds=1800.0)
    lab.update("n1", "extra=rack 7")
    assert backends["n1"].take_slot(intent(A.TAKE_SLOT)).outcome is O.DONE
    answer = backends["n1"].return_slot(intent(A.RETURN_SLOT))
    assert answer.outcome is O.DONE and "rests on this node" in answer.detail
    assert "Duration=00:30:0" in lab.call("scontrol", "-o", "show", "reservation")
    for node in ("n1", "n2"):
        assert backends[node].take_slot(intent(A.TAKE_SLOT)).outcome is O.REFUSED
    assert backends["n1"].return_slot(intent(A.RETURN_SLOT)).outcome is O.DONE
    assert lab.slots() == {"gpuwarden-slot-0": "n1"} and lab.shown("n1", "Extra") == "rack 7"


def test_a_slot_without_an_end_outlives_the_controller(lab: SlurmLab, tmp_path: Path) -> None:
    """`UNLIMITED` is a year to Slurm; once the controller has saved its state, a crash does not free the slot."""
    backend = hosts(lab, tmp_path, fleet_max_hosts=1)["n1"]
    backend.take_slot(intent(A.TAKE_SLOT))
    assert "Duration=365-00:00:00" in lab.call("scontrol", "-o", "show", "reservation")
    saved = lab.root / "state/resv_state"
    wait(
        lambda: saved.exists() and b"gpuwarden-slot-0" in saved.read_bytes(), "the controller to save its reservations"
    )
    lab.kill_controller()
    lab.start_controller()
    assert lab.slots() == {"gpuwarden-slot-0": "n1"}
    assert "Duration=365-00:00:00" in lab.call("scontrol", "-o", "show", "reservation")
    lab.restart_node("n1")
    lab.wait_state("n1", "IDLE", "MAINTENANCE", "RESERVED")
    assert backend.take_slot(intent(A.TAKE_SLOT)).detail == "gpuwarden-slot-0 is taken already"


def test_a_held_host_gives_its_slot_back_and_is_counted(lab: SlurmLab, tmp_path: Path) -> None:
    """Its drain stays, marked as held: every host sees one more that waits for people."""
    backends = hosts(lab, tmp_path, fleet_max_hosts=2, slot_rest_seconds=0.0)
    backends["n1"].take_slot(intent(A.TAKE_SLOT))
    backends["n1"].isolate(intent(A.ISOLATE))
    seen = backends["n2"].look(Surroundings())
    assert (seen.held_hosts, seen.slots_free) == (0, 1)
    assert backends["n1"].return_slot(intent(A.RETURN_SLOT)).outcome is O.DONE
    assert lab.shown("n1", "Extra") == "gpuwarden case=9f3c-4 rung=0 attempt=0 held=1"
    seen = backends["n3"].look(Surroundings())
    assert (seen.held_hosts, seen.slots_free) == (1, 2)
    assert backends["n1"].release(intent(A.RELEASE)).outcome is O.DONE
    seen = backends["n4"].look(Surroundings())
    assert (seen.held_hosts, seen.slots_free) == (0, 2)


def test_nodes_that_others_took_out_leave_fewer_slots(lab: SlurmLab, tmp_path: Path) -> None:
    """Half of four nodes may be out; two are, by their admin: none is left for us."""
    backends = hosts(lab, tmp_path, fleet_max_ratio=0.5)
    lab.update("n3", "state=drain", "reason=fan")
    assert backends["n1"].take_slot(intent(A.TAKE_SLOT)).outcome is O.DONE
    assert backends["n2"].take_slot(intent(A.TAKE_SLOT)).outcome is O.REFUSED
    lab.call("scontrol", "delete", "reservation=gpuwarden-slot-0")
    lab.update("n4", "state=down", "reason=fan")
    answer = backends["n2"].take_slot(intent(A.TAKE_SLOT))
    assert answer.outcome is O.REFUSED and "taken out by others" in answer.detail


def test_reservations_of_others_and_of_other_nodes_are_kept(lab: SlurmLab, tmp_path: Path) -> None:
    """Giving back deletes the slot of this node, and no other reservation."""
    backends = hosts(lab, tmp_path, fleet_max_hosts=2)
    school = ("ReservationName=school", "Nodes=n1", "StartTime=now+1hours", "Duration=60", "Users=daemon")
    lab.call("scontrol", "create", "reservation", *school)
    backends["n2"].take_slot(intent(A.TAKE_SLOT))
    assert backends["n1"].return_slot(intent(A.RETURN_SLOT)).outcome is O.DONE
    assert lab.slots() == {"school": "n1", "gpuwarden-slot-0": "n2"}


def test_without_a_limit_nothing_is_taken(lab: SlurmLab, tmp_path: Path) -> None:
    """An unset limit is no permission."""
    backend = hosts(lab, tmp_path)["n1"]
    assert backend.take_slot(intent(A.TAKE_SLOT)).outcome is O.REFUSED
    seen = backend.look(Surroundings())
    assert lab.slots() == {} and seen.slots_free is None and seen.held_hosts is None
