"""Drain, release, eviction and looks on a real slurmctld with real slurmds and jobs that hold GPUs."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from gpuwarden.actuators.backend import Backend
from gpuwarden.actuators.site import Site
from gpuwarden.actuators.slurm import SlurmBackend
from gpuwarden.actuators.slurm_calls import ASK_SECONDS, TELL_SECONDS
from gpuwarden.model.case import ActionKind, Outcome, Surroundings
from support.slurmintent import intent, mark_of
from support.slurmlab import BDFS, SlurmLab, wait

pytestmark = pytest.mark.real

A, O = ActionKind, Outcome  # noqa: E741
MARK = mark_of("9f3c-4")


def at(lab: SlurmLab, where: Path, node: str = "n1", **sections: dict[str, object]) -> Backend:
    """Return the back end of a node, as its actuator has it."""
    return SlurmBackend(lab.site(node, where, **sections))


def look(backend: Backend) -> Surroundings:
    return backend.look(Surroundings())


# ---- isolate


def test_a_node_is_drained_while_its_job_ends_in_peace(lab: SlurmLab, tmp_path: Path) -> None:
    """DRAINING with the job at work, its GPUs named; DRAINED when it has ended by itself."""
    backend = at(lab, tmp_path)
    job = lab.submit("n1", 3, gpus=2)
    assert backend.isolate(intent(A.ISOLATE)).outcome is O.DONE
    assert lab.state("n1") == {"MIXED", "DRAIN"}
    assert lab.reason("n1").startswith(f"{MARK} [root@")
    assert lab.shown("n1", "Extra") == "gpuwarden case=9f3c-4 rung=0 attempt=0 held=0"
    seen = look(backend)
    assert (seen.identity, seen.isolated, seen.mark, seen.jobs) == (True, True, MARK, 1)
    # indices 0 and 1 are /dev/nvidia0 and /dev/nvidia1, which are the second and the first BDF here
    assert seen.jobs_on == {BDFS[0]: 1, BDFS[1]: 1, BDFS[2]: 0, BDFS[3]: 0}
    wait(lambda: lab.state("n1") == {"IDLE", "DRAIN"}, "the job's own end")
    assert lab.job_state(job) == "COMPLETED"
    seen = look(backend)
    assert seen.jobs == 0 and seen.jobs_on == dict.fromkeys(BDFS, 0)


def test_asked_twice_it_is_done_once(lab: SlurmLab, tmp_path: Path) -> None:
    """The second drain under our own mark changes nothing: the reason keeps the time of the first."""
    backend = at(lab, tmp_path)
    assert backend.isolate(intent(A.ISOLATE)).outcome is O.DONE
    first = lab.reason("n1")
    now = time.time()
    wait(lambda: time.time() >= now + 1.1, "the next second")
    assert backend.isolate(intent(A.ISOLATE, rung=1)).outcome is O.DONE
    assert lab.reason("n1") == first
    assert look(backend).record == "gpuwarden case=9f3c-4 rung=1 attempt=0 held=0"
    assert backend.isolate(intent(A.ISOLATE)).outcome is O.DONE
    assert look(backend).record == "gpuwarden case=9f3c-4 rung=1 attempt=0 held=0", "the higher count wins"


@pytest.mark.parametrize("state", ["drain", "down", "fail"])
def test_what_others_took_out_is_theirs(lab: SlurmLab, tmp_path: Path, state: str) -> None:
    """Not drained again, not undrained, not written to: neither reason nor state nor Extra."""
    lab.update("n1", f"state={state}", "reason=changing DIMM 3")
    before = lab.call("scontrol", "show", "node", "n1")
    backend = at(lab, tmp_path)
    isolated = backend.isolate(intent(A.ISOLATE))
    assert isolated.outcome is O.REFUSED and "changing DIMM 3" in isolated.detail and "root" in isolated.detail
    assert backend.release(intent(A.RELEASE)).outcome is O.REFUSED
    assert backend.release(intent(A.RELEASE, resume=True)).outcome is O.REFUSED
    assert lab.call("scontrol", "show", "node", "n1") == before
    seen = look(backend)
    assert (seen.isolated, seen.mark) == (True, "changing DIMM 3")


def test_another_cases_drain_is_not_ours_either(lab: SlurmLab, tmp_path: Path) -> None:
    """One case does not undo what another did, and does not write over it."""
    backend = at(lab, tmp_path)
    backend.isolate(intent(A.ISOLATE, "9f3c-4"))
    assert backend.isolate(intent(A.ISOLATE, "9f3c-44")).outcome is O.REFUSED
    assert backend.release(intent(A.RELEASE, "9f3c-44")).outcome is O.REFUSED
    assert backend.release(intent(A.RELEASE, "9f3c")).outcome is O.REFUSED
    assert lab.state("n1") == {"IDLE", "DRAIN"} and lab.reason("n1").startswith(f"{MARK} [")


def test_an_extra_of_others_is_kept(lab: SlurmLab, tmp_path: Path) -> None:
    """The drain needs no record; what others wrote stays as it is."""
    lab.update("n1", "extra=rack 7, left")
    backend = at(lab, tmp_path)
    answer = backend.isolate(intent(A.ISOLATE))
    assert answer.outcome is O.DONE and "Extra" in answer.detail
    assert backend.release(intent(A.RELEASE)).outcome is O.DONE
    assert lab.shown("n1", "Extra") == "rack 7, left" and "DRAIN" not in lab.state("n1")


# ---- identity


def test_a_node_that_is_another_host_is_never_touched(lab: SlurmLab, tmp_path: Path) -> None:
    """Its record says another host name: no verb writes anything, whatever the configuration says."""
    before = lab.call("scontrol", "show", "node", "far")
    backend = at(lab, tmp_path, "far", budget={"fleet_max_hosts": 9}, isolation={"on_deadline": "cancel"})
    for verb in (backend.isolate, backend.evict, backend.take_slot):
        answer = verb(intent(A.ISOLATE))
        assert answer.outcome is O.REFUSED and "elsewhere" in answer.detail
    assert backend.return_slot(intent(A.RETURN_SLOT)).outcome is O.FAILED
    assert lab.call("scontrol", "show", "node", "far") == before and lab.slots() == {}
    assert look(backend).identity is False


def test_even_a_node_with_our_mark_is_not_released_by_another_host(lab: SlurmLab, tmp_path: Path) -> None:
    """Right reason, other host: the drain stands."""
    lab.update("far", "state=drain", f"reason={MARK}")
    backend = at(lab, tmp_path, "far")
    assert backend.release(intent(A.RELEASE)).outcome is O.FAILED
    assert lab.reason("far").startswith(MARK)
    lab.update("far", "state=drain", "reason=not of this test any more")


@pytest.mark.parametrize(("seconds", "proven"), [(0, True), (110, True), (-110, True), (130, False), (-130, False)])
def test_the_boot_must_be_the_same_within_two_minutes(
    lab: SlurmLab, tmp_path: Path, seconds: int, proven: bool
) -> None:
    """A clock that was set during the boot is forgiven; another boot is not."""
    site = lab.site("n1", tmp_path)
    (Path(site.place.proc) / "stat").write_text(f"btime {int(lab.boot_time('n1')) + seconds}\n")
    backend = SlurmBackend(site)
    assert look(backend).identity is proven
    answer = backend.isolate(intent(A.ISOLATE))
    assert answer.outcome is (O.DONE if proven else O.REFUSED)
    assert ("DRAIN" in lab.state("n1")) is proven


def test_a_node_that_is_not_there(lab: SlurmLab, tmp_path: Path) -> None:
    """Said, and nothing done; what was isolated under that name is asked for again."""
    site = lab.site("n1", tmp_path)
    site = replace(site, config=replace(site.config, isolation=replace(site.config.isolation, node_name="auto")))
    (Path(site.place.proc) / "sys/kernel/hostname").write_text("gpu99.example\n")
    backend = SlurmBackend(site)
    assert backend.isolate(intent(A.ISOLATE)).outcome is O.REFUSED
    assert backend.release(intent(A.RELEASE)).outcome is O.FAILED
    seen = look(backend)
    assert seen.identity is None and seen.isolated is None and "gpu99" in seen.detail


# ---- release


def test_a_release_gives_the_node_back_and_leaves_nothing(lab: SlurmLab, tmp_path: Path) -> None:
    """No drain, no reason, no Extra; asked again, it is done already."""
    backend = at(lab, tmp_path)
    backend.isolate(intent(A.ISOLATE))
    assert backend.release(intent(A.RELEASE)).outcome is O.DONE
    assert "DRAIN" not in lab.state("n1") and lab.reason("n1") == "" and lab.shown("n1", "Extra") == ""
    assert backend.release(intent(A.RELEASE)).outcome is O.DONE


@pytest.mark.parametrize("change", [("state=drain", "reason=mine now"), ("state=down", "reason=mine now")])
def test_what_an_admin_changes_in_the_middle_is_left_alone(
    lab: SlurmLab, tmp_path: Path, change: tuple[str, str]
) -> None:
    """A later drain or down, with a reason of their own, is theirs to undo; the next look shows it."""
    backend = at(lab, tmp_path)
    backend.isolate(intent(A.ISOLATE))
    lab.update("n1", *change)
    assert look(backend).mark == "mine now"
    before = lab.state("n1"), lab.reason("n1")
    for resume in (False, True):
        answer = backend.release(intent(A.RELEASE, resume=resume))
        assert answer.outcome is O.REFUSED and "mine now" in answer.detail
    assert (lab.state("n1"), lab.reason("n1")) == before


def test_an_admin_who_lets_work_back_is_seen(lab: SlurmLab, tmp_path: Path) -> None:
    """An undrain by somebody else shows in the next look, and there is nothing left to release."""
    backend = at(lab, tmp_path)
    backend.isolate(intent(A.ISOLATE))
    lab.update("n1", "state=undrain")
    assert look(backend).isolated is False
    assert backend.release(intent(A.RELEASE)).outcome is O.DONE


def test_the_same_words_by_another_user_are_not_ours(lab: SlurmLab, tmp_path: Path) -> None:
    """The reason must be ours and set by us. Run as a user that is not root, the actuator is somebody else."""
    lab.update("n1", "state=drain", f"reason={MARK}")
    backend = at(lab, tmp_path)
    os.seteuid(1)
    try:
        answer = backend.release(intent(A.RELEASE))
    finally:
        os.seteuid(0)
    assert answer.outcome is O.REFUSED and "root" in answer.detail
    assert "DRAIN" in lab.state("n1")


# ---- after a reboot


def test_a_node_that_is_down_by_our_reboot_is_resumed_by_us(lab: SlurmLab, tmp_path: Path) -> None:
    """DOWN+DRAIN with our reason after a boot younger than the drain: resumed, only when the case rebooted it."""
    at(lab, tmp_path).isolate(intent(A.ISOLATE))
    lab.reboot("n1")
    assert lab.state("n1") == {"DOWN", "DRAIN"} and lab.reason("n1").startswith(f"{MARK} [")
    backend = at(lab, tmp_path)
    assert backend.release(intent(A.RELEASE, resume=True)).outcome is O.DONE
    assert lab.state("n1") - {"NOT_RESPONDING"} == {"IDLE"} and lab.reason("n1") == ""
    lab.wait_state("n1", "IDLE")


def test_a_node_that_is_down_by_somebody_elses_reboot_stays_down(lab: SlurmLab, tmp_path: Path) -> None:
    """The drain is taken away; that Slurm holds it for down is not ours to end."""
    at(lab, tmp_path).isolate(intent(A.ISOLATE))
    lab.reboot("n1")
    assert lab.state("n1") == {"DOWN", "DRAIN"}
    answer = at(lab, tmp_path).release(intent(A.RELEASE, resume=False))
    assert answer.outcome is O.DONE and "DOWN" in answer.detail
    assert lab.state("n1") - {"NOT_RESPONDING"} == {"DOWN"}


def test_a_drain_that_followed_the_boot_proves_no_reboot_of_ours(lab: SlurmLab, tmp_path: Path) -> None:
    """The node was down before it was drained: that is not resumed, whatever the case believes."""
    lab.update("n1", "state=drain", "reason=x")
    lab.reboot("n1")
    assert lab.state("n1") == {"DOWN", "DRAIN"}
    lab.update("n1", "state=drain", f"reason={MARK}")
    backend = at(lab, tmp_path)
    answer = backend.release(intent(A.RELEASE, resume=True))
    assert answer.outcome is O.REFUSED and "boot" in answer.detail
    assert lab.state("n1") == {"DOWN", "DRAIN"}


def test_slurm_reboots_the_node_and_leaves_it_down(lab: SlurmLab, tmp_path: Path) -> None:
    """RebootProgram runs on the node; after it the node is down until we release it, and not given back by itself."""
    backend = SlurmBackend(lab.site("n1", tmp_path))
    assert backend.reboot(intent(A.REBOOT)).outcome is O.REFUSED, "without our mark nothing is rebooted"
    backend.isolate(intent(A.ISOLATE))
    assert backend.reboot(intent(A.REBOOT)).outcome is O.DONE
    wait(lambda: lab.rebooting("n1"), "RebootProgram")
    assert look(backend).mark == MARK
    lab.reboot("n1")
    wait(lambda: lab.state("n1") == {"DOWN"}, "Slurm to see the boot")
    after = at(lab, tmp_path)
    assert look(after).mark == MARK and look(after).isolated is True
    assert after.release(intent(A.RELEASE, resume=False)).outcome is O.REFUSED
    answer = after.release(intent(A.RELEASE, resume=True))
    assert answer.outcome is O.DONE, (answer, lab.reason("n1"))
    lab.wait_state("n1", "IDLE")


# ---- evict


@pytest.mark.parametrize(("on_deadline", "state"), [("requeue", "PENDING"), ("cancel", "CANCELLED")])
def test_jobs_are_ended_as_configured(lab: SlurmLab, tmp_path: Path, on_deadline: str, state: str) -> None:
    """The jobs of this node, and of no other."""
    backend = at(lab, tmp_path, isolation={"on_deadline": on_deadline})
    mine, other = lab.submit("n1", 600, gpus=1), lab.submit("n2", 600, gpus=1)
    assert backend.evict(intent(A.EVICT)).outcome is O.REFUSED, "the node still takes jobs"
    backend.isolate(intent(A.ISOLATE))
    answer = backend.evict(intent(A.EVICT))
    assert answer.outcome is O.DONE and mine in answer.detail
    wait(lambda: lab.job_state(mine) == state, f"job {mine} to be {state}")
    wait(lambda: look(backend).jobs == 0, "no job on the node")
    assert lab.job_state(other) == "RUNNING"
    assert backend.evict(intent(A.EVICT)).outcome is O.DONE


def test_jobs_are_not_ended_unless_asked(lab: SlurmLab, tmp_path: Path) -> None:
    """`hold` ends nothing."""
    backend = at(lab, tmp_path)
    job = lab.submit("n1", 600)
    backend.isolate(intent(A.ISOLATE))
    assert backend.evict(intent(A.EVICT)).outcome is O.REFUSED
    assert lab.job_state(job) == "RUNNING"


def test_a_suspended_job_counts(lab: SlurmLab, tmp_path: Path) -> None:
    """It holds its GPUs, and will want them back."""
    backend = at(lab, tmp_path)
    job = lab.submit("n1", 600, gpus=1)
    lab.call("scontrol", "suspend", job)
    seen = look(backend)
    assert seen.jobs == 1 and seen.jobs_on is not None and sum(seen.jobs_on.values()) == 1


def test_gpus_that_slurm_does_not_have_all_of_are_not_told_apart(lab: SlurmLab, tmp_path: Path) -> None:
    """With a GPU on the host that Slurm does not know, an index names no GPU: only the jobs of the node are told."""
    site = lab.site("n1", tmp_path)
    extra = Path(site.place.proc) / "driver/nvidia/gpus/0000:c1:00.0"
    extra.mkdir()
    (extra / "information").write_text("Device Minor: \t 4\n")
    lab.submit("n1", 600, gpus=1)
    seen = look(SlurmBackend(site))
    assert seen.jobs == 1 and seen.jobs_on is None


# ---- a controller that does not answer


def test_a_controller_that_is_stopped(lab: SlurmLab, tmp_path: Path) -> None:
    """Reading is given up in time and changes nothing; what was told and not answered is in doubt, and says so."""
    backend = at(lab, tmp_path)
    lab.signal_controller(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert backend.isolate(intent(A.ISOLATE)).outcome is O.REFUSED
        assert time.monotonic() - began < ASK_SECONDS + 2.0
        assert backend.release(intent(A.RELEASE)).outcome is O.FAILED
        began = time.monotonic()
        seen = look(backend)
        assert time.monotonic() - began < 20.0 and seen.identity is None and seen.detail
    finally:
        lab.signal_controller(signal.SIGCONT)
    assert "DRAIN" not in lab.state("n1")


def test_a_controller_that_stops_between_reading_and_writing(lab: SlurmLab, tmp_path: Path) -> None:
    """The drain was sent, and nobody said that it arrived: EFFECT_UNKNOWN. It did land; asked again, it is done."""
    site = lab.site("n1", tmp_path)
    stopping = _Stopping(site, lab, signal.SIGSTOP)
    began = time.monotonic()
    try:
        answer = stopping.backend.isolate(intent(A.ISOLATE))
    finally:
        lab.signal_controller(signal.SIGCONT)
    assert answer.outcome is O.EFFECT_UNKNOWN, answer
    assert time.monotonic() - began < ASK_SECONDS * 2 + TELL_SECONDS
    wait(lambda: "DRAIN" in lab.state("n1"), "the drain that was in doubt")
    assert SlurmBackend(site).isolate(intent(A.ISOLATE)).outcome is O.DONE


def test_a_controller_that_is_gone(lab: SlurmLab, tmp_path: Path) -> None:
    """Nothing was sent, and that is known: REFUSED before, FAILED in the middle of it."""
    site = lab.site("n1", tmp_path)
    stopping = _Stopping(site, lab, signal.SIGKILL)
    try:
        began = time.monotonic()
        answer = stopping.backend.isolate(intent(A.ISOLATE, "gone-1"))
        assert answer.outcome is O.FAILED and "Unable to contact" in answer.detail, answer
        assert time.monotonic() - began < ASK_SECONDS * 2 + TELL_SECONDS
        began = time.monotonic()
        assert SlurmBackend(site).isolate(intent(A.ISOLATE, "gone-1")).outcome is O.REFUSED
        assert time.monotonic() - began < ASK_SECONDS + 2.0
    finally:
        lab.kill_controller()
        lab.start_controller()
    assert "gone-1" not in lab.reason("n1"), "what it had not saved before may be back, this was never there"


class _Stopping:
    """A back end whose controller stops as soon as it was asked: a tool on its PATH sees to that after its answer."""

    def __init__(self, site: Site, lab: SlurmLab, number: signal.Signals) -> None:
        tools = Path(site.place.state_dir) / "bin"
        tools.mkdir()
        pid = lab.controller_pid
        (tools / "scontrol").write_text(
            "#!/bin/sh\n"
            '/usr/bin/scontrol "$@"\ncode=$?\n'
            f'if [ "$1" = show ] && [ ! -e {tools}/done ]; then\n'
            f"  touch {tools}/done; kill -{number.name[3:]} {pid}\n"
            f"  until grep -q '^State:.[TZ]' /proc/{pid}/status; do sleep 0.05; done\n"
            "fi\nexit $code\n"
        )
        (tools / "scontrol").chmod(0o755)
        actuator = replace(site.config.actuator, path=f"{tools}:{site.config.actuator.path}")
        self.backend: Backend = SlurmBackend(replace(site, config=replace(site.config, actuator=actuator)))


# ---- speed


def test_a_drain_is_seen_soon(lab: SlurmLab, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """From the call to a DRAIN that is seen, 50 times: far below what is left of 2 s for it."""
    taken = []
    for number in range(50):
        backend = at(lab, tmp_path)
        began = time.monotonic()
        assert backend.isolate(intent(A.ISOLATE, f"c-{number}")).outcome is O.DONE
        assert "DRAIN" in lab.state("n1")
        taken.append(time.monotonic() - began)
        lab.clean()
    p99 = statistics.quantiles(taken, n=100)[98]
    record_property("isolate_to_drain_p99_seconds", round(p99, 3))
    assert p99 < 1.0
