"""The door: who may come in, and what becomes of everything that is no request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuwarden.actuators.backend import Answer, done
from gpuwarden.actuators.performer import CannotAnswerError
from gpuwarden.actuators.remote import Remote
from gpuwarden.actuators.server import MOST_CONNECTIONS, Server
from gpuwarden.actuators.wire import PROTOCOL, RESPONSES, Ask, Hello, Look, Rejected, Seen, Welcome, framed, read_frame
from gpuwarden.errors import ActuatorError
from gpuwarden.model.case import ActionKind, Intent, Outcome, Surroundings
from gpuwarden.model.stamp import Stamp

INTENT = Intent(id="c1/0", case="c1", action=ActionKind.RESET, made=Stamp("b", 1.0, 1.0))
HELLO = framed(Hello(protocol=PROTOCOL))


class Hands:
    """A performer that counts."""

    busy = False

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cannot = ""

    async def ask(self, intent: Intent) -> Answer:
        if self.cannot:
            raise CannotAnswerError(self.cannot)
        self.asked.append(intent.id)
        return done("as asked")

    async def look(self) -> Surroundings:
        return Surroundings(actuator_up=True, jobs=3)


class Door:
    """A server on a socket, and a client of it."""

    def __init__(self, path: Path, hands: Hands) -> None:
        self.path, self.hands = path, hands
        self.remote = Remote(path)

    async def say(self, raw: bytes) -> list[object]:
        """Send bytes, and return every response until the server hangs up or has answered what was whole."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        with contextlib.suppress(ConnectionError):
            writer.write(raw)
            writer.write_eof()
        found = []
        with contextlib.suppress(ConnectionError):
            while (frame := await read_frame(reader, 5.0)) is not None:
                found.append(RESPONSES.decode(frame))
        writer.close()
        return found


@contextlib.asynccontextmanager
async def opened(path: Path, uids: frozenset[int] = frozenset({os.geteuid()}), **options: float) -> AsyncIterator[Door]:
    hands = Hands()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    stop = asyncio.Event()
    task = asyncio.create_task(Server(hands, uids, **options).serve(listening, stop))
    try:
        yield Door(path, hands)
    finally:
        stop.set()
        await task


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """A door that is open to this user, impatient with half frames."""
    async with opened(tmp_path / "s", frame_seconds=0.3) as made:
        yield made


async def test_an_effect_and_a_look(door: Door) -> None:
    """What is asked in order is answered in order."""
    assert await door.remote.ask(INTENT) == (Outcome.DONE, "as asked")
    assert (await door.remote.look()).jobs == 3
    responses = await door.say(HELLO + framed(Look()) + framed(Ask(INTENT)))
    assert [type(each).__name__ for each in responses] == ["Welcome", "Seen", "Answered"]


async def test_whoever_is_not_expected_gets_no_answer(tmp_path: Path) -> None:
    """The kernel says who calls; what is said does not matter then."""
    async with opened(tmp_path / "s", frozenset({os.geteuid() + 1})) as door:
        (answer,) = await door.say(HELLO + framed(Ask(INTENT)))
        assert isinstance(answer, Rejected)
        with pytest.raises(ActuatorError, match="may not ask"):
            await door.remote.ask(INTENT)
        assert door.hands.asked == []


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(framed(Ask(INTENT)), id="no-greeting"),
        pytest.param(HELLO + HELLO + framed(Ask(INTENT)), id="greeted-twice"),
        pytest.param(framed(Hello(protocol=99)) + framed(Ask(INTENT)), id="another-protocol"),
        pytest.param(struct.pack("!I", 65 << 10) + bytes(65 << 10), id="oversized"),
        pytest.param(HELLO + struct.pack("!I", 0xFFFFFFFF), id="four-gigabytes"),
        pytest.param(HELLO + framed(Ask(INTENT))[:-1], id="broken-off"),
        pytest.param(HELLO + b"\0\0\0\x05" + msgspec.msgpack.encode({"type": "run"})[:5], id="garbled"),
        pytest.param(HELLO + b"\0\0\0\0", id="empty"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="http"),
    ],
)
async def test_what_is_no_request_ends_its_connection_and_begins_nothing(door: Door, raw: bytes) -> None:
    """And the next one is served."""
    responses = await door.say(raw)
    assert not responses or isinstance(responses[-1], Rejected)
    assert door.hands.asked == []
    assert await door.remote.ask(INTENT) == (Outcome.DONE, "as asked")


async def test_an_unknown_verb_and_an_unknown_field_are_refused(door: Door) -> None:
    """The union is closed: a verb is one of it, with its own fields only."""
    ask = msgspec.msgpack.decode(msgspec.msgpack.encode(Ask(INTENT)))
    for changed in ({**ask, "type": "shell"}, {**ask, "path": "/bin/sh"}):
        raw = msgspec.msgpack.encode(changed)
        (_, answer) = await door.say(HELLO + struct.pack("!I", len(raw)) + raw)
        assert isinstance(answer, Rejected)
    assert door.hands.asked == []


async def test_a_slow_one_is_cut_off_and_keeps_nobody_waiting(door: Door) -> None:
    """A byte of a frame starts its deadline; others are served meanwhile."""
    reader, writer = await asyncio.open_unix_connection(door.path)
    writer.write(HELLO + framed(Ask(INTENT))[:10])
    assert await door.remote.ask(INTENT) == (Outcome.DONE, "as asked")
    assert isinstance(RESPONSES.decode(await read_frame(reader, 3.0) or b""), Welcome)
    assert isinstance(RESPONSES.decode(await read_frame(reader, 3.0) or b""), Rejected)
    assert await read_frame(reader, 3.0) is None
    assert door.hands.asked == [INTENT.id]
    writer.close()


async def test_connections_are_counted(tmp_path: Path) -> None:
    """More than so many at once are turned away; there is room again when they are gone."""
    async with opened(tmp_path / "s") as door:
        held = [await asyncio.open_unix_connection(door.path) for _ in range(MOST_CONNECTIONS)]
        (answer,) = await door.say(HELLO + framed(Look()))
        assert answer == Rejected("too many connections")
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(5.0):
            while (await door.say(HELLO + framed(Look())))[0] == answer:
                continue  # each try is a whole conversation, in which the server gets to know that the others left


async def test_what_cannot_be_answered_is_no_outcome(door: Door) -> None:
    """Neither done nor refused: whoever asked asks again."""
    door.hands.cannot = "the ledger: disk I/O error"
    with pytest.raises(ActuatorError, match="disk"):
        await door.remote.ask(INTENT)


async def test_it_ends_when_idle_and_not_while_anybody_is_there(tmp_path: Path) -> None:
    """An open connection keeps it up; then it ends by itself."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "s"))
    listening.listen()
    server = Server(Hands(), frozenset({os.geteuid()}), idle_seconds=0.2)
    task = asyncio.create_task(server.serve(listening, asyncio.Event()))
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    writer.write(HELLO)
    assert isinstance(RESPONSES.decode(await read_frame(reader, 5.0) or b""), Welcome)
    done_, _ = await asyncio.wait((task,), timeout=0.6)
    assert not done_
    writer.close()
    await asyncio.wait_for(task, 5.0)


_FRAMES = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(lambda raw: struct.pack("!I", len(raw)) + raw),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    ).map(lambda value: struct.pack("!I", len(raw := msgspec.msgpack.encode(value))) + raw),
    st.integers(0, len(framed(Ask(INTENT))) - 1).flatmap(
        lambda at: st.integers(1, 255).map(lambda bits: _flipped(framed(Ask(INTENT)), at, bits))
    ),
)


def _flipped(raw: bytes, at: int, bits: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ bits]) + raw[at + 1 :]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.lists(_FRAMES, max_size=4), greeted=st.booleans())
def test_no_bytes_do_harm(tmp_path_factory: pytest.TempPathFactory, frames: list[bytes], greeted: bool) -> None:
    """Whatever is sent, the server answers the next who asks; an effect comes only from a whole, valid Ask."""

    async def scenario() -> None:
        async with opened(tmp_path_factory.mktemp("fuzz") / "s", frame_seconds=1.0) as door:
            await door.say((HELLO if greeted else b"") + b"".join(frames))
            assert all(isinstance(asked, str) for asked in door.hands.asked)
            if not greeted and not any(b"hello" in frame for frame in frames):
                assert door.hands.asked == []
            assert isinstance((await door.say(HELLO + framed(Look())))[1], Seen)

    asyncio.run(scenario())
