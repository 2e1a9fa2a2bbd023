"""The loop around the engine: order, outcomes, and that a defect costs one observation and no more."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from gpuwarden import mainloop
from gpuwarden.engine import Step, advance
from gpuwarden.inbox import Inbox
from gpuwarden.mainloop import MainLoop
from gpuwarden.model.case import Case, CaseState, Remedy, Rung, Treatment
from gpuwarden.model.observation import AnyObservation, InboxDropped, Injected, OperatorAsked, OperatorVerb, Tick
from gpuwarden.model.snapshot import NodeState
from gpuwarden.model.step import Do
from support.story import Story


async def test_observations_are_taken_in_order_and_handed_on() -> None:
    """Each step is told with the observation, the state before it and its outcome."""
    story = Story()
    taken: list[tuple[bool, bool]] = []
    done = asyncio.Event()

    def note(_: AnyObservation, before: NodeState, step: Step) -> None:
        taken.append((before.drill, step.state.drill))
        if len(taken) == 2:
            done.set()

    inbox = Inbox()
    loop = MainLoop(story.node, inbox, note)
    task = asyncio.create_task(loop.run())
    for active in (True, False):
        inbox.put(Injected(at=story.at, active=active, detail=""))
    async with asyncio.timeout(5):
        await done.wait()
    task.cancel()
    assert taken == [(False, True), (True, False)]
    assert loop.revision == 2


def test_a_step_that_raises_keeps_the_old_state_and_becomes_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The observation is set aside and counted; the next one gets its chance; the finding is critical."""
    story = Story()

    def faulty(state: NodeState, observation: AnyObservation) -> Step:
        if isinstance(observation, InboxDropped):
            raise ZeroDivisionError
        return advance(state, observation)

    monkeypatch.setattr(mainloop, "advance", faulty)
    loop = MainLoop(story.node, Inbox(), lambda *_: None)
    loop.take(InboxDropped(at=story.at, total=7))
    assert loop.state.inbox_dropped == 0
    assert loop.state.engine_errors == 1
    loop.take(Tick(at=story.at))
    assert ("host.engine_error", "") in loop.state.incidents


async def test_a_flood_does_not_starve_the_event_loop() -> None:
    """While thousands of observations wait, other tasks still run every few milliseconds."""
    story = Story()
    inbox = Inbox()
    loop = MainLoop(story.node, inbox, lambda *_: None)
    for number in range(20_000):
        inbox.put(Injected(at=story.at, active=bool(number % 2), detail=""))
    task = asyncio.create_task(loop.run())
    turns = 0
    while len(inbox):
        turns += 1
        await asyncio.sleep(0)
    task.cancel()
    assert turns >= 5


def test_what_goes_wrong_with_remediation_does_not_blind_the_host() -> None:
    """Cases that break an invariant stay as they are and nothing is done; what is seen is known all the same."""
    story = Story().started(1)
    case = Case(
        id="a",
        kind="xid.xid_95",
        kinds=("xid.xid_95",),
        uuid=None,
        opened=story.at,
        since=story.at,
        treatment=Treatment(rungs=(Rung(action=None),)),
        state=CaseState.HELD,
        isolated=True,
    )
    broken = {name: replace(case, id=name) for name in ("a", "b")}
    node = replace(story.node, remedy=Remedy(cases=broken))
    steps: list[Step] = []
    loop = MainLoop(node, Inbox(), lambda _, __, step: steps.append(step))
    loop.take(OperatorAsked(at=story.at, verb=OperatorVerb.PAUSE, by="test"))
    loop.take(InboxDropped(at=story.at, total=7))
    loop.take(Tick(at=story.at))
    assert (loop.state.engine_errors, loop.state.inbox_dropped) == (2, 7)
    assert loop.state.remedy.cases == broken
    assert loop.state.remedy.paused_until is None
    assert ("host.engine_error", "") in loop.state.incidents
    assert not any(isinstance(command, Do) for step in steps for command in step.commands)
