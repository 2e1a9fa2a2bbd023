"""The actuator under the real systemd: started by the first who asks, answering the daemon's user and root alone."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support.daemonproc import wait_for
from support.systemdlab import VENV, SystemdLab

pytestmark = pytest.mark.real

UNIT = "gpuwarden-actuator"
ASK = """
import asyncio, json, sys, msgspec
from pathlib import Path
from gpuwarden.actuators.remote import Remote
from gpuwarden.model.case import ActionKind, Intent
from gpuwarden.runner import ActuatorError
from gpuwarden.timebase import Clock
remote = Remote(Path("/run/gpuwarden-actuator/actuator.sock"))
async def main():
    if sys.argv[1] == "look":
        return msgspec.to_builtins(await remote.look())
    intent = Intent(id=sys.argv[2], case="c1", action=ActionKind(sys.argv[1]), made=Clock(None)(), mark="gpuwarden c1",
                    deadline_seconds=30.0)
    outcome, detail = await remote.ask(intent)
    return {"outcome": outcome.value, "detail": detail}
try:
    print(json.dumps(asyncio.run(main())))
except ActuatorError as error:
    print(json.dumps({"error": str(error)}))
"""
CONFIG = """
mode = "enforce"
[actions]
isolate = "enforce"
[isolation]
backend = "systemd"
units = ["miner.service", "other.service"]
"""
MINER = "[Service]\nExecStart=/bin/sleep infinity\n"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdLab]:
    """A booted system with the product installed, the actuator's socket on, and a miner that runs."""
    made = SystemdLab(tmp_path_factory.mktemp("actuator"))
    try:
        made.start()
        made.install()
        made.run("mkdir", "-p", "/etc/gpuwarden")
        made.write("/etc/gpuwarden/config.toml", CONFIG)
        made.run("chmod", "0644", "/etc/gpuwarden/config.toml")
        made.write("/run/ask.py", ASK)
        for name in ("miner", "other"):
            made.write(f"/etc/systemd/system/{name}.service", MINER)
        made.run("systemctl", "daemon-reload")
        made.run("systemctl", "start", f"{UNIT}.socket", "miner.service")
        yield made
    finally:
        made.stop()


def ask(lab: SystemdLab, *arguments: str, user: str = "gpuwarden") -> dict[str, object]:
    done = lab.run("runuser", "-u", user, "--", f"{VENV}/bin/python", "/run/ask.py", *arguments)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_it_is_started_by_whoever_asks_first_and_looks_around(lab: SystemdLab) -> None:
    """The daemon's user gets an answer; it sees who is logged in, and no GPU here that anybody could hold."""
    assert lab.property("ActiveState", UNIT) == "inactive"
    around = ask(lab, "look")
    assert (around["actuator_up"], around["stopped"], around["holders"]) == (True, False, {})
    assert lab.property("ActiveState", UNIT) == "active"
    assert lab.out("stat", "-c", "%U %a", "/var/lib/gpuwarden-actuator") == "root 700"


def test_nobody_else_gets_an_answer(lab: SystemdLab) -> None:
    """Neither by the socket's permissions nor, where those were widened, by the peer's uid."""
    assert "may not be used by this user" in str(ask(lab, "look", user="nobody")["error"])
    lab.run("chmod", "0666", "/run/gpuwarden-actuator/actuator.sock")
    assert "may not ask" in str(ask(lab, "look", user="nobody")["error"])
    lab.run("chmod", "0660", "/run/gpuwarden-actuator/actuator.sock")


def test_units_are_stopped_and_started_by_it(lab: SystemdLab) -> None:
    """Through the real service manager, from within the hardened unit; only what ran comes back."""
    assert ask(lab, "isolate", "c1/1") == {"outcome": "done", "detail": "stopped miner.service"}
    assert lab.property("ActiveState", "miner") == "inactive"
    around = ask(lab, "look")
    assert (around["isolated"], around["mark"]) == (True, "gpuwarden c1")
    assert ask(lab, "release", "c1/2") == {"outcome": "done", "detail": "started miner.service"}
    assert lab.property("ActiveState", "miner") == "active"
    assert lab.property("ActiveState", "other") == "inactive"


def test_killed_it_comes_back_with_its_memory(lab: SystemdLab) -> None:
    """The next question starts it; what was done is told from the ledger."""
    pid = lab.property("MainPID", UNIT)
    lab.run("systemctl", "kill", "--signal=KILL", UNIT)
    wait_for(lambda: lab.property("MainPID", UNIT) != pid, 10, "its end")
    assert ask(lab, "isolate", "c1/1") == {"outcome": "refused", "detail": "another effect has this id"}
    assert ask(lab, "look")["actuator_up"] is True


def test_a_configuration_that_cannot_be_used_does_not_take_the_socket_down(lab: SystemdLab) -> None:
    """It says what is wrong, and goes on as soon as that is mended."""
    lab.write("/etc/gpuwarden/config.toml", "nonsense = 1\n")
    lab.run("systemctl", "stop", f"{UNIT}.service")
    around = ask(lab, "look")
    assert around["actuator_up"] is False
    assert "nonsense" in str(around["detail"])
    lab.write("/etc/gpuwarden/config.toml", CONFIG)
    assert ask(lab, "look")["actuator_up"] is True
    assert lab.property("ActiveState", f"{UNIT}.socket") == "active"
