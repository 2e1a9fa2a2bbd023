"""The main process's end: no answer is an error, no actuator a refusal, and inline it starts one that outlives it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from gpuwarden.actuators.remote import Remote, actuator_for
from gpuwarden.config import Config
from gpuwarden.errors import ActuatorError
from gpuwarden.model.case import ActionKind, Outcome
from support.actuatorlab import Actuator, Lab
from support.daemonproc import wait_for


async def test_without_an_actuator_nothing_was_begun(lab: Lab) -> None:
    """That is a refusal, and no unknown effect; the look says where none is."""
    remote = Remote(lab.root / "none.sock")
    outcome, why = await remote.ask(lab.intent(ActionKind.RESET))
    assert (outcome, why) == (Outcome.REFUSED, f"no actuator at {lab.root}/none.sock")
    with pytest.raises(ActuatorError, match="no actuator"):
        await remote.look()


async def test_the_next_question_finds_an_actuator_that_was_restarted(lab: Lab, actuator: Actuator) -> None:
    """There is no connection to mend."""
    actuator.start()
    assert (await actuator.remote.look()).actuator_up
    actuator.kill()
    with pytest.raises(ActuatorError):
        await actuator.remote.look()
    actuator.start()
    assert (await actuator.remote.look()).actuator_up


@pytest.mark.parametrize("said", [b"", b"\0\0\0\x02ab", b"\xff\xff\xff\xff", b"HTTP/1.1 400\r\n"])
async def test_whoever_else_listens_there_gives_no_outcome(tmp_path: Path, lab: Lab, said: bytes) -> None:
    """An answer that is none is an error: what was asked may have been done."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(said)
        writer.close()

    async with await asyncio.start_unix_server(talk, tmp_path / "other.sock"):
        with pytest.raises(ActuatorError):
            await Remote(tmp_path / "other.sock").ask(lab.intent(ActionKind.RESET))


def test_the_configuration_says_which(lab: Lab) -> None:
    """Behind the socket, or one of our own that is started when it is needed."""
    config = Config()
    assert actuator_for(config)._command == ()
    inline = actuator_for(replace(config, actuator=replace(config.actuator, inline=True)), Path("/c.toml"))
    assert inline._command[-4:] == ("actuator", "--exit-when-idle", "--config", "/c.toml")


INLINE = """
import asyncio, sys
from pathlib import Path
from gpuwarden.actuators.remote import Remote
async def main():
    remote = Remote(Path(sys.argv[1]), sys.argv[2:])
    both = await asyncio.gather(remote.look(), remote.look())
    up = Path(sys.argv[1]).with_name("up")
    up.with_suffix(".new").write_text(f"{all(each.actuator_up for each in both)} {remote._process.pid}")
    up.with_suffix(".new").replace(up)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_inline_it_starts_one_that_outlives_a_killed_daemon(lab: Lab) -> None:
    """In a session of its own; whoever comes next finds it, and it ends by itself when nobody asks any more."""
    remote = Remote(Path(lab.config.actuator.socket))
    command = Actuator(lab, idle_seconds=1.0).command()
    daemon = await asyncio.create_subprocess_exec(sys.executable, "-c", INLINE, lab.config.actuator.socket, *command)
    await asyncio.to_thread(wait_for, (lab.root / "up").exists, 10, "two looks")
    answer, _, pid = (lab.root / "up").read_text().partition(" ")
    assert answer == "True"
    daemon.kill()
    await daemon.wait()
    assert os.getsid(int(pid)) == int(pid)
    assert (await remote.look()).actuator_up
    await asyncio.to_thread(wait_for, lambda: _gone(pid), 10, "its end by itself")


def _gone(pid: str) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or ") Z " in stat.read_text()


async def test_the_command_serves_as_its_configuration_says(lab: Lab) -> None:
    """`gpuwarden actuator`: its state beside the daemon's, its own reading of what may be done, made anew each time."""
    socket, config = lab.root / "cli.sock", lab.root / "config.toml"
    config.write_text(f'state_dir = "{lab.root}/own"\n[actuator]\nsocket = "{socket}"\n')
    config.chmod(0o600)
    command = (sys.executable, "-m", "gpuwarden.cli", "actuator", "--config", str(config))
    process = await asyncio.create_subprocess_exec(*command)
    try:
        await asyncio.to_thread(wait_for, socket.exists, 10, "the socket")
        around = await Remote(socket).look()
        assert around.actuator_up
        outcome, why = await Remote(socket).ask(lab.intent(ActionKind.ISOLATE, None))
        assert outcome is Outcome.REFUSED
        assert "shadow" in why
        config.write_text(f'mode = "enforce"\nstate_dir = "{lab.root}/own"\n[actuator]\nsocket = "{socket}"\n')
        outcome, why = await Remote(socket).ask(lab.intent(ActionKind.ISOLATE, None, id="c1/2"))
        assert (outcome, why) == (Outcome.REFUSED, "no isolation back end is configured for isolate")
        config.write_text("nonsense = 1\n")
        outcome, why = await Remote(socket).ask(lab.intent(ActionKind.ISOLATE, None, id="c1/3"))
        assert (outcome, "nonsense" in why) == (Outcome.REFUSED, True)
        with pytest.raises(ActuatorError, match="nonsense"):  # what gives back stays to be asked for
            await Remote(socket).ask(lab.intent(ActionKind.RELEASE, None, id="c1/4"))
        assert "nonsense" in (await Remote(socket).look()).detail
        assert (lab.root / "own-actuator/ledger.db").exists()
    finally:
        process.terminate()
        assert await process.wait() == 0
