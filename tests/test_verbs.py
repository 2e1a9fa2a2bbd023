"""Requests over the status socket: what they do, and what they refuse."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gpuwarden.errors import InputError
from gpuwarden.model.observation import AnyObservation, ForgetGpu, Injected, KernelLogged
from gpuwarden.model.snapshot import NodeState
from gpuwarden.sim.wire import Inject, Reply, receive, send
from gpuwarden.verbs import Verbs
from support.story import Story, uuid


class Desk:
    """A host as the verbs see it, with what they did kept."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.emitted: list[AnyObservation] = []
        self.requests: list[str] = []
        self.verbs = Verbs(self, self.emitted.append, lambda: story.at, None)

    def node(self) -> NodeState:
        return self.story.node

    def request(self, verb: str, _: dict[str, Any]) -> None:
        self.requests.append(verb)


@pytest.fixture
def desk() -> Desk:
    """Two GPUs answer, a third has left: neither bus nor driver show it."""
    story = Story().started(3)
    story.pci(0, 1)
    story.session(2)
    story.opened(0)
    story.opened(1)
    return Desk(story)


@pytest.mark.parametrize("name", ["2", uuid(2), "S2", "0000:12:00.0"])
async def test_a_gpu_that_left_is_forgotten_by_any_of_its_names(desk: Desk, name: str) -> None:
    """Index, uuid, serial or BDF."""
    answer = await desk.verbs.forget({"gpu": name})
    assert answer == {"forgotten": uuid(2), "gpu": 2}
    assert [o.uuid for o in desk.emitted if isinstance(o, ForgetGpu)] == [uuid(2)]
    assert desk.requests == ["forget"]


async def test_a_gpu_that_answers_is_not_forgotten(desk: Desk) -> None:
    """It would come back at once under a new history."""
    with pytest.raises(InputError, match="still there"):
        await desk.verbs.forget({"gpu": "0"})
    assert desk.emitted == []


@pytest.mark.parametrize("body", [{}, {"gpu": 3}, {"gpu": "9"}, {"gpu": "0", "more": 1}])
async def test_bad_requests_say_what_is_wrong(desk: Desk, body: dict[str, Any]) -> None:
    """Missing, wrong type, unknown, superfluous."""
    with pytest.raises(InputError):
        await desk.verbs.forget(body)


async def test_on_a_real_node_an_xid_is_injected_as_a_drill(desk: Desk) -> None:
    """The line is marked as not the kernel's: it opens a drill and touches no call."""
    await desk.verbs.inject({"fault": "xid", "gpu": 1, "options": {"code": 79}})
    (line,) = desk.emitted
    assert isinstance(line, KernelLogged)
    assert (line.code, line.bdf, line.drill, line.from_kernel) == (79, "0000:11:00", True, False)
    desk.story.take(line)
    assert desk.story.node.incidents["xid.xid_79", uuid(1)].drill
    assert desk.story.commands == []


async def test_other_faults_need_the_simulator(desk: Desk) -> None:
    """Nothing but a line can be put into a real node from here."""
    with pytest.raises(InputError, match="--sim"):
        await desk.verbs.inject({"fault": "lost", "gpu": 1})


async def test_an_unreachable_simulator_is_said(desk: Desk, tmp_path: Path) -> None:
    """The request fails with its reason, the daemon goes on."""
    verbs = Verbs(desk, desk.emitted.append, lambda: desk.story.at, tmp_path / "none.sock")
    with pytest.raises(InputError):
        await verbs.inject({"fault": "lost", "gpu": 1})
    assert [o.active for o in desk.emitted if isinstance(o, Injected)] == [True, False]


async def test_the_drill_is_on_before_the_fault_is(desk: Desk, tmp_path: Path) -> None:
    """What comes of a fault can be here before the simulator's answer is; it is practice all the same."""
    seen: list[list[bool]] = []

    def drills() -> list[bool]:
        return [o.active for o in desk.emitted if isinstance(o, Injected)]

    def simulate(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                receive(connection, Inject)
                seen.append(drills())
                send(connection, Reply("", msgspec.Raw(msgspec.msgpack.encode(None))))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sim.sock"))
        listener.listen()
        thread = threading.Thread(target=simulate, args=(listener,))
        thread.start()
        verbs = Verbs(desk, desk.emitted.append, lambda: desk.story.at, tmp_path / "sim.sock")
        await verbs.inject({"fault": "lost", "gpu": 1})
        await verbs.inject({"fault": "lost", "gpu": 1, "clear": True})
        thread.join(5)
    assert seen == [[True], [True]]
    assert drills() == [True, False]
