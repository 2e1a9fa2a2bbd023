"""The actuator as a process: an id is done once whatever happens to it, effects do not wait for each other."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from gpuwarden.actuators.process import run_actuator
from gpuwarden.errors import ActuatorError, InputError
from gpuwarden.model.case import ActionKind, Outcome
from support.actuatorlab import Actuator, Lab, bdf
from support.daemonproc import wait_for

COMMAND = {"command": "act"}


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _runs(pid: str) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def isolates_by_command(lab: Lab, body: str = "") -> None:
    lab.config = replace(lab.config, isolation=replace(lab.config.isolation, backend="command", command="iso"))
    lab.action("iso", body)


async def test_an_effect_is_done_once_and_its_outcome_kept(lab: Lab, actuator: Actuator) -> None:
    """Asked again, also after a restart, it is told and not done."""
    lab.action("act", "echo cycled")
    intent = lab.intent(ActionKind.COMMAND, **COMMAND)
    actuator.start()
    assert await actuator.remote.ask(intent) == (Outcome.DONE, "cycled")
    assert await actuator.remote.ask(intent) == (Outcome.DONE, "cycled")
    actuator.kill()
    actuator.start()
    assert await actuator.remote.ask(intent) == (Outcome.DONE, "cycled")
    assert lab.calls() == ["act act"]
    outcome, why = await actuator.remote.ask(replace(intent, bdf=bdf(1)))
    assert (outcome, why) == (Outcome.REFUSED, "another effect has this id")


async def test_a_crash_in_the_middle_is_unknown_and_never_done_again(lab: Lab, actuator: Actuator) -> None:
    """Killed while its child was at work: the child dies with it, and the id is spent."""
    lab.action("act", "exec sleep 60")
    intent = lab.intent(ActionKind.COMMAND, **COMMAND, deadline_seconds=30.0)
    actuator.start()
    asking = asyncio.create_task(actuator.remote.ask(intent))
    await asyncio.to_thread(wait_for, lab.calls, 5, "the effect's beginning")
    assert actuator.process is not None
    pid = actuator.process.pid
    children = _children(pid)
    actuator.kill()
    assert children
    for child in children:
        await asyncio.to_thread(wait_for, lambda gone=child: not _runs(gone), 5, "the end of its child")
    with pytest.raises(ActuatorError):
        await asking
    actuator.start()
    outcome, _ = await actuator.remote.ask(intent)
    assert outcome is Outcome.EFFECT_UNKNOWN
    assert lab.calls() == ["act act"]


async def test_who_asks_twice_at_once_waits_for_one_effect(lab: Lab, actuator: Actuator) -> None:
    """Also when the first of them has gone away."""
    lab.action("act", f"cat < {lab.root}/go; echo cycled")
    os.mkfifo(lab.root / "go")
    intent = lab.intent(ActionKind.COMMAND, **COMMAND)
    actuator.start()
    first = asyncio.create_task(actuator.remote.ask(intent))
    second = asyncio.create_task(actuator.remote.ask(intent))
    await asyncio.to_thread(wait_for, lab.calls, 5, "the effect's beginning")
    first.cancel()
    await asyncio.to_thread((lab.root / "go").write_text, "")
    assert await second == (Outcome.DONE, "cycled")
    assert lab.calls() == ["act act"]


async def test_past_its_deadline_it_ends_with_all_it_started(lab: Lab, actuator: Actuator) -> None:
    """The process group is killed, and what it had done by then is not known."""
    lab.action("act", f"trap '' TERM; sleep 61 & echo $! > {lab.root}/child; wait")
    actuator.start()
    outcome, why = await actuator.remote.ask(lab.intent(ActionKind.COMMAND, **COMMAND, deadline_seconds=1.0))
    assert outcome is Outcome.EFFECT_UNKNOWN
    assert "within 1 s" in why
    child = int((lab.root / "child").read_text())
    await asyncio.to_thread(wait_for, lambda: not Path(f"/proc/{child}").exists(), 5, "the end of its child")


async def test_a_gpu_waits_for_no_other_and_for_no_node(lab: Lab, actuator: Actuator) -> None:
    """While the node's own effect hangs, the work on a GPU is stopped."""
    isolates_by_command(lab, f"cat < {lab.root}/go")
    os.mkfifo(lab.root / "go")
    actuator.start()
    isolating = asyncio.create_task(actuator.remote.ask(lab.intent(ActionKind.ISOLATE)))
    await asyncio.to_thread(wait_for, lab.calls, 5, "the effect's beginning")
    with lab.holder(1):
        outcome, _ = await actuator.remote.ask(lab.intent(ActionKind.STOP_WORKLOAD, 1))
    assert outcome is Outcome.DONE
    assert not isolating.done()
    await asyncio.to_thread((lab.root / "go").write_text, "")
    assert (await isolating)[0] is Outcome.DONE


async def test_the_stop_switch_is_read_by_the_actuator_itself(lab: Lab, actuator: Actuator) -> None:
    """A runner that asks anyway gets a refusal; what gives back goes on; the same intent is done once it is off."""
    isolates_by_command(lab)
    lab.action("act")
    actuator.start()
    (lab.root / "stop").touch()
    refused = [await actuator.remote.ask(lab.intent(action, command="act")) for action in
               (ActionKind.ISOLATE, ActionKind.COMMAND, ActionKind.REBOOT, ActionKind.RESET)]  # fmt: skip
    assert {outcome for outcome, _ in refused} == {Outcome.REFUSED}
    assert all("stop switch" in why for _, why in refused)
    assert lab.calls() == []
    assert (await actuator.remote.ask(lab.intent(ActionKind.RELEASE)))[0] is Outcome.DONE
    assert (await actuator.remote.look()).stopped is True
    (lab.root / "stop").unlink()
    assert (await actuator.remote.ask(lab.intent(ActionKind.ISOLATE)))[0] is Outcome.DONE


async def test_its_own_rate_outlives_a_restart(lab: Lab, actuator: Actuator) -> None:
    """Whatever the main process counts, so many a day and no more."""
    lab.config = replace(lab.config, budget=replace(lab.config.budget, per_gpu_actions_per_day=2))
    lab.action("act")
    actuator.start()
    for number in range(2):
        intent = lab.intent(ActionKind.COMMAND, **COMMAND, id=f"c{number}")
        assert (await actuator.remote.ask(intent))[0] is Outcome.DONE
    actuator.stop()
    actuator.start()
    outcome, why = await actuator.remote.ask(lab.intent(ActionKind.COMMAND, **COMMAND, id="c9"))
    assert (outcome, why) == (Outcome.REFUSED, "2 of 2 actions on this GPU in a day")
    assert (await actuator.remote.ask(lab.intent(ActionKind.COMMAND, 1, **COMMAND, id="c10")))[0] is Outcome.DONE


async def test_without_a_ledger_nothing_is_begun(lab: Lab, actuator: Actuator) -> None:
    """What is disruptive is refused; what gives back stays to be asked for; the look says why nobody should ask."""
    (lab.root / "state/ledger.db").write_bytes(b"this is no ledger " * 100)
    isolates_by_command(lab)
    actuator.start()
    outcome, why = await actuator.remote.ask(lab.intent(ActionKind.RESET))
    assert outcome is Outcome.REFUSED
    assert "ledger" in why
    with pytest.raises(ActuatorError, match="ledger"):
        await actuator.remote.ask(lab.intent(ActionKind.RELEASE))
    around = await actuator.remote.look()
    assert not around.actuator_up
    assert "ledger" in around.detail
    assert lab.calls() == []


async def test_what_it_sees(lab: Lab, actuator: Actuator) -> None:
    """Holders by GPU, the stop switch, and what the back end tells."""
    isolates_by_command(lab, """[ "$1" = look ] && echo '{"isolated": true, "mark": "m"}'""")
    lab.program("loginctl", 'case "$1" in list-sessions) echo "3 0 root - -"; echo "4 0 root - -";; '
                            '*) echo Class=user; echo; echo Class=manager;; esac')  # fmt: skip
    actuator.start()
    with lab.holder(1):
        around = await actuator.remote.look()
    assert around.actuator_up
    assert around.stopped is False
    assert around.holders == {bdf(0): 0, bdf(1): 1}
    assert (around.isolated, around.mark, around.logged_in) == (True, "m", 1)


def test_there_is_one_actuator_at_a_time(lab: Lab, actuator: Actuator) -> None:
    """A second one on the same ledger would do things twice."""
    actuator.start()
    with pytest.raises(InputError, match="another actuator"):
        run_actuator(lab.site)


def test_a_state_directory_that_others_can_write_is_refused(lab: Lab) -> None:
    """Whoever can write the ledger can have things done again."""
    (lab.root / "state").chmod(0o770)
    with pytest.raises(InputError, match="only its owner"):
        run_actuator(lab.site)


def test_it_ends_by_itself_when_idle(lab: Lab) -> None:
    """A minute with nothing to do; here less."""
    actuator = Actuator(lab, idle_seconds=0.3).start()
    assert actuator.process is not None
    assert actuator.process.wait(10) == 0
