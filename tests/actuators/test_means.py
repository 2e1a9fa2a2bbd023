"""The means, each against stand-ins of the host's programs: what they call in which order, and what they answer."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from msgspec.structs import replace

from gpuwarden.actuators.backend import Answer
from gpuwarden.actuators.effect import bring_about
from gpuwarden.actuators.holders import Holder, Role, holdings, start_ticks
from gpuwarden.actuators.means import BACKENDS, MEANS
from gpuwarden.actuators.processes import _end
from gpuwarden.actuators.units import Units
from gpuwarden.config import Isolation
from gpuwarden.model.case import ActionKind, Outcome, Surroundings
from support.actuatorlab import MARK, Lab, bdf

# ---- the table


def test_every_action_but_the_governors_has_its_means() -> None:
    """An action without a row could be asked for and not be done."""
    assert set(ActionKind) - set(MEANS) <= {ActionKind.MITIGATE}


# ---- processes


def stop(lab: Lab, number: int = 0, **changes: object) -> Answer:
    return bring_about(lab.site, lab.intent(ActionKind.STOP_WORKLOAD, number, **changes))


def test_the_work_on_one_gpu_is_ended_and_no_other(lab: Lab) -> None:
    """SIGTERM is enough for most."""
    with lab.holder(0) as here, lab.holder(1) as there:
        answer = stop(lab)
        assert answer.outcome is Outcome.DONE
        assert str(here.pid) in answer.detail
        assert here.wait(5) == -signal.SIGTERM
        assert there.poll() is None


def test_whoever_does_not_mind_sigterm_is_killed(lab: Lab) -> None:
    """After its share of the deadline."""
    with lab.holder(0, trap=":") as process:
        assert stop(lab, deadline_seconds=1.0).outcome is Outcome.DONE
        assert process.wait(5) == -signal.SIGKILL


def test_nothing_at_work_is_done_already(lab: Lab) -> None:
    """Asking twice changes nothing."""
    assert stop(lab) == Answer(Outcome.DONE, "nothing was at work")


def test_a_process_of_another_start_time_is_somebody_else(lab: Lab) -> None:
    """The number alone is no identity: whoever got it since is left alone."""
    with lab.holder(0) as process:
        (found,) = holdings(lab.site).working(bdf(0))
        assert found.pid == process.pid
        assert found.start_ticks == start_ticks(Path(f"/proc/{process.pid}"))
        assert _end(lab.site, [found._replace(start_ticks=found.start_ticks - 1)], 0.1, float("inf")) == []
        assert process.poll() is None


def test_what_a_scheduler_owns_is_refused_as_a_whole(lab: Lab) -> None:
    """Its work ends through it; nobody else is touched meanwhile."""
    place = replace(lab.site.place, proc=str(lab.root / "proc"))
    folder = lab.root / "proc/4242"
    (folder / "fd").mkdir(parents=True)
    (folder / "fd/3").symlink_to(lab.root / "dev/nvidia0")
    (folder / "stat").write_text("4242 (python) S 1 " + " ".join(["0"] * 17) + " 777 0\n")
    (folder / "comm").write_text("python\n")
    (folder / "cgroup").write_text("0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n")
    (folder / "cmdline").write_bytes(b"python\0train.py\0")
    site = replace(lab.site, place=place)
    answer = bring_about(site, lab.intent(ActionKind.STOP_WORKLOAD))
    assert answer.outcome is Outcome.REFUSED
    assert "python[4242] belongs to slurm" in answer.detail


def test_our_own_line_is_never_ended(lab: Lab) -> None:
    """A device that we hold ourselves is a reason to refuse."""
    with (lab.root / "dev/nvidia0").open():
        answer = stop(lab)
    assert answer.outcome is Outcome.REFUSED
    assert "our own" in answer.detail


@pytest.mark.parametrize(
    ("comm", "cmdline", "cgroup", "role"),
    [
        ("python3", b"python3\0-P\0-m\0gpuwarden.nvml.worker\0", "/system.slice/gpuwarden.service", Role.OUR_WORKER),
        ("nvidia-persiste", b"x\0", "0::/system.slice/nvidia-persistenced.service", Role.PERSISTENCE),
        ("nvidia-persiste", b"x\0", "0::/user.slice/user-1000.slice", Role.WORK),
        ("nv-hostengine", b"x\0", "0::/system.slice/nvidia-dcgm.service", Role.PAUSED_UNIT),
        ("python3", b"python3\0train.py\0", "0::/system.slice/docker-1.scope", Role.WORK),
    ],
)
def test_who_is_work_and_who_is_not(lab: Lab, comm: str, cmdline: bytes, cgroup: str, role: Role) -> None:
    """A name alone makes nobody a service: the control group does, which the service manager gives."""
    lab.config = replace(lab.config, actuator=replace(lab.config.actuator, pause_units=("nvidia-dcgm.service",)))
    folder = lab.root / "proc/77"
    (folder / "fd").mkdir(parents=True)
    (folder / "fd/9").symlink_to(lab.root / "dev/nvidia1")
    (folder / "stat").write_text(f"77 ({comm} x) S 1 " + " ".join(["0"] * 17) + " 5 0\n")
    (folder / "comm").write_text(f"{comm}\n")
    (folder / "cgroup").write_text(f"{cgroup}\n")
    (folder / "cmdline").write_bytes(cmdline)
    site = replace(lab.site, place=replace(lab.site.place, proc=str(lab.root / "proc")))
    assert holdings(site).by_bdf == {bdf(0): [], bdf(1): [Holder(77, 5, comm, os.geteuid(), role, "")]}


# ---- units

SYSTEMCTL = """
state={root}/units
case "$1" in
  show) shift 4; for unit; do echo "ActiveState=$(cat $state/$unit 2>/dev/null || echo inactive)"; done;;
  stop) shift 3; for unit; do echo inactive > $state/$unit; done;;
  start) shift 3; for unit; do echo active > $state/$unit; done;;
esac
"""


@pytest.fixture
def units(lab: Lab) -> Path:
    """A service manager with a miner that runs and a server that does not."""
    folder = lab.root / "units"
    folder.mkdir()
    (folder / "miner.service").write_text("active")
    (folder / "llm.service").write_text("inactive")
    lab.program("systemctl", SYSTEMCTL.format(root=lab.root))
    isolation = Isolation(backend="systemd", units=("miner.service", "llm.service"))
    lab.config = replace(lab.config, isolation=isolation)
    return folder


def test_units_that_ran_are_stopped_and_only_those_started_again(lab: Lab, units: Path) -> None:
    """What an operator had stopped stays stopped."""
    assert bring_about(lab.site, lab.intent(ActionKind.ISOLATE)) == Answer(Outcome.DONE, "stopped miner.service")
    assert (units / "miner.service").read_text() == "inactive\n"
    around = Units(lab.site).look(Surroundings())
    assert (around.isolated, around.mark) == (True, MARK)
    assert bring_about(lab.site, lab.intent(ActionKind.ISOLATE)).outcome is Outcome.DONE
    assert bring_about(lab.site, lab.intent(ActionKind.RELEASE)) == Answer(Outcome.DONE, "started miner.service")
    assert (units / "llm.service").read_text() == "inactive"
    assert Units(lab.site).look(Surroundings()).isolated is False


def test_what_is_not_ours_is_not_started(lab: Lab, units: Path) -> None:
    """Neither without a note of ours nor under another case's mark."""
    assert bring_about(lab.site, lab.intent(ActionKind.RELEASE)).outcome is Outcome.REFUSED
    bring_about(lab.site, lab.intent(ActionKind.ISOLATE))
    other = bring_about(lab.site, lab.intent(ActionKind.RELEASE, mark="gpuwarden c2 x gpu1"))
    assert other == Answer(Outcome.REFUSED, f"not ours: {MARK}")
    assert bring_about(lab.site, lab.intent(ActionKind.ISOLATE, mark="gpuwarden c2 x gpu1")).outcome is Outcome.REFUSED
    assert (units / "miner.service").read_text() == "inactive\n"


def test_an_operator_who_starts_a_unit_has_let_work_back(lab: Lab, units: Path) -> None:
    """That is seen, and is his to do."""
    bring_about(lab.site, lab.intent(ActionKind.ISOLATE))
    (units / "llm.service").write_text("active")
    assert Units(lab.site).look(Surroundings()).isolated is False


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ('[ "$1" = show ] || { echo "Job failed" >&2; exit 1; }', "answers for 0 of 2"),
        ("exit 1", "systemctl show"),
        (
            SYSTEMCTL.replace("stop) shift 3;", "stop) echo Transaction contains conflicting jobs >&2; exit 1;"),
            "conflict",
        ),
        (SYSTEMCTL.replace("stop) shift 3;", "stop) exit 0;"), "still running: miner.service"),
    ],
)
def test_a_service_manager_that_fails_has_isolated_nothing(lab: Lab, units: Path, body: str, word: str) -> None:
    """Its own words are the reason; whatever it stopped is noted, and started again by the release."""
    lab.program("systemctl", body.replace("{root}", str(lab.root)))
    answer = bring_about(lab.site, lab.intent(ActionKind.ISOLATE))
    assert answer.outcome is Outcome.FAILED
    assert word in answer.detail


# ---- an operator's commands


def act(lab: Lab, **changes: object) -> Answer:
    return bring_about(lab.site, lab.intent(ActionKind.COMMAND, **({"command": "cycle"} | changes)))


@pytest.mark.parametrize(
    ("body", "outcome", "word"),
    [
        ("echo powered", Outcome.DONE, "powered"),
        ("exit 0", Outcome.DONE, ""),
        ("echo busy >&2; exit 75", Outcome.FAILED, "not now: busy"),
        ("exit 77", Outcome.REFUSED, "exit status 77"),
        ("echo no BMC >&2; exit 3", Outcome.FAILED, "no BMC"),
        ("kill -SEGV $$", Outcome.EFFECT_UNKNOWN, "signal 11"),
        ("exec sleep 60", Outcome.EFFECT_UNKNOWN, "within 1 s"),
    ],
)
def test_exit_statuses_are_outcomes(lab: Lab, body: str, outcome: Outcome, word: str) -> None:
    """The documented contract of actions.d."""
    lab.action("cycle", body)
    answer = act(lab, deadline_seconds=1.0)
    assert answer.outcome is outcome
    assert word in answer.detail


def test_what_an_executable_is_told(lab: Lab) -> None:
    """A verb as its argument, the rest as JSON on stdin."""
    lab.action("cycle", f"cat > {lab.root}/given")
    assert act(lab, serial="1650").outcome is Outcome.DONE
    assert lab.calls() == ["cycle act"]
    assert json.loads((lab.root / "given").read_text()) == {
        "version": 1, "verb": "act", "intent": "c1/0.0.0/command", "case": "c1", "mark": MARK,
        "gpu_uuid": "GPU-00000000-0000-0000-0000-000000000000", "gpu_pci_bus_id": bdf(0), "gpu_serial": "1650",
        "deadline_seconds": 10.0,
    }  # fmt: skip


def test_only_the_owners_own_files_are_run(lab: Lab) -> None:
    """Not what others can write, not a link, not what is not executable, not what is not there."""
    lab.action("cycle")
    distrusted = []
    for change in (
        lambda: (lab.actions / "cycle").chmod(0o775),
        lambda: (lab.actions / "cycle").chmod(0o644),
        (lab.actions / "cycle").unlink,
        lambda: (lab.actions / "cycle").symlink_to("/bin/true"),
        lambda: lab.actions.chmod(0o777),
    ):
        change()
        distrusted.append(act(lab))
    assert {answer.outcome for answer in distrusted} == {Outcome.FAILED}
    assert lab.calls() == []


def test_a_command_can_isolate(lab: Lab) -> None:
    """The back end `command`: one executable, its verbs, and what it says of the host."""
    lab.config = replace(lab.config, isolation=Isolation(backend="command", command="lb"))
    lab.action("lb", f'case "$1" in look) cat {lab.root}/said;; release) exit 77;; esac')
    assert bring_about(lab.site, lab.intent(ActionKind.ISOLATE)).outcome is Outcome.DONE
    assert bring_about(lab.site, lab.intent(ActionKind.RELEASE)).outcome is Outcome.REFUSED
    assert bring_about(lab.site, lab.intent(ActionKind.TAKE_SLOT)).outcome is Outcome.REFUSED
    backend = BACKENDS["command"](lab.site)
    for said, isolated in (('{"isolated": true}', True), ('{"isolated": false, "x": 1}', False), ("yes", None)):
        (lab.root / "said").write_text(said)
        assert backend.look(Surroundings()).isolated is isolated


# ---- reboot


def inhibitors(*rows: tuple[str, str, str, str]) -> str:
    return json.dumps({"type": "a(ssssuu)", "data": [[[*row, 0, 1] for row in rows]]})


def reboot(lab: Lab) -> Answer:
    return bring_about(lab.site, lab.intent(ActionKind.REBOOT))


def busctl(lab: Lab, listed: str, *, told: str = "") -> None:
    (lab.root / "listed").write_text(listed)
    lab.program("busctl", f'case "$*" in *ListInhibitors*) cat {lab.root}/listed;; *Reboot*) {told or ":"};; esac')


def test_a_reboot_goes_through_logind(lab: Lab) -> None:
    """Delays are logind's to grant; who blocks other things blocks no reboot."""
    busctl(lab, inhibitors(("sleep", "UPower", "Pause", "delay"), ("handle-lid-switch:sleep", "gnome", "lid", "block"),
                           ("shutdown", "backup", "writes", "delay")))  # fmt: skip
    assert reboot(lab) == Answer(Outcome.DONE, "told to reboot")
    assert [call.rpartition(" ")[0].split()[-1] for call in lab.calls()][-1] == "b"


def test_a_block_inhibitor_is_honoured_and_named(lab: Lab) -> None:
    """Root could override it without being asked; it is not ours to."""
    busctl(lab, inhibitors(("sleep:shutdown", "apt", "upgrade under way", "block")))
    assert reboot(lab) == Answer(Outcome.REFUSED, "a reboot is inhibited by apt (upgrade under way)")
    assert not any("Reboot" in call for call in lab.calls())


def test_without_logind_the_service_manager_is_told(lab: Lab) -> None:
    """No logind, no inhibitors."""
    words = "Call failed: The name org.freedesktop.login1 was not provided by any .service files"
    lab.program("busctl", f'echo "{words}" >&2; exit 1')
    lab.program("systemctl")
    assert reboot(lab).outcome is Outcome.DONE
    assert lab.calls()[-1] == "systemctl reboot --no-ask-password"


@pytest.mark.parametrize("listed", ["", "{}", '{"data": [[["shutdown"]]]}'])
def test_what_inhibits_must_be_known(lab: Lab, listed: str) -> None:
    """An answer that cannot be read is no answer."""
    busctl(lab, listed)
    assert reboot(lab).outcome is Outcome.FAILED
    assert not any("Reboot" in call for call in lab.calls())


def test_a_reboot_that_is_answered_with_an_error_may_come(lab: Lab) -> None:
    """The bus can break off because the host goes down."""
    busctl(lab, inhibitors(), told="echo Connection reset by peer >&2; exit 1")
    assert reboot(lab).outcome is Outcome.EFFECT_UNKNOWN


def test_a_host_that_does_not_answer_is_not_rebooted(lab: Lab) -> None:
    """No busctl at all: refused by failing, nothing called."""
    lab.config = replace(lab.config, actuator=replace(lab.config.actuator, path=str(lab.bin)))
    assert reboot(lab).outcome is Outcome.FAILED
