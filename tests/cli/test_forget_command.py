"""`gpuwarden forget`: through the daemon, or left in its journal."""

from __future__ import annotations

import asyncio

from gpuwarden.engine import initial
from gpuwarden.errors import InputError
from gpuwarden.journal import Journal
from gpuwarden.journal.reading import reading
from gpuwarden.journal.schema import FILE_NAME
from gpuwarden.model.observation import Stamp
from gpuwarden.model.settings import Settings
from support.rig import Rig


def test_the_daemon_is_asked_and_its_answer_told(live: Rig) -> None:
    """By whatever name the user gave."""
    live.answers["forget"] = {"forgotten": "GPU-7", "gpu": 7}
    result = live.run("forget", "0000:12:00.0")
    assert result.stdout == "forgotten: GPU 7 (GPU-7)\n"
    assert live.asked == [("forget", {"gpu": "0000:12:00.0"})]


def test_a_refusal_is_told_in_the_daemons_words(live: Rig) -> None:
    """Exit 2: the card is still there."""
    live.answers["forget"] = InputError("GPU 0 (GPU-0) is still there")
    result = live.run("forget", "0")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "gpuwarden: GPU 0 (GPU-0) is still there\n"


async def _used(rig: Rig) -> None:
    journal, _ = Journal.open(rig.state_dir, "b")
    state = initial(Stamp("b", 1.0, 1.0), Settings(kinds={}))
    journal.commit((), state, state, None)
    await journal.close(5.0)


def test_while_the_daemon_is_down_the_request_waits_in_its_journal(rig: Rig) -> None:
    """Durable when the command returns; who asked is the file's owner to allow."""
    asyncio.run(_used(rig))
    assert rig.json("forget", "3")["request"] == 1
    with reading(rig.state_dir / FILE_NAME) as connection:
        assert connection.execute("SELECT verb, payload FROM requests").fetchall() == [("forget", '{"gpu":"3"}')]


def test_with_neither_daemon_nor_journal_nothing_is_promised(rig: Rig) -> None:
    """Exit 3 and both reasons."""
    result = rig.run("forget", "3")
    assert result.exit_code == 3
    assert "no such socket" in result.stderr
    assert "there is no journal" in result.stderr
