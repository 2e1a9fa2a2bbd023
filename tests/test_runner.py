"""The runner: an intent is asked for once at a time, its outcome always told, the stop switch read before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from gpuwarden.engine import initial
from gpuwarden.errors import ActuatorError
from gpuwarden.model.case import ActionKind, Intent, Outcome, Surroundings
from gpuwarden.model.kinds import default_settings
from gpuwarden.model.observation import ActionEnded, AnyObservation, Stamp, StopRead, SurroundingsSeen
from gpuwarden.model.settings import Settings
from gpuwarden.runner import Runner

AT = Stamp("b", 1000.0, 1_790_000_000.0)
INTENT = Intent(id="c1/0.0.0/reset", case="c1", action=ActionKind.RESET, made=AT, deadline_seconds=5.0)


class Hands:
    """An actuator that answers when told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def ask(self, intent: Intent) -> tuple[Outcome, str]:
        self.asked.append(intent.id)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return Outcome.DONE, "as asked"

    async def look(self) -> Surroundings:
        return Surroundings(actuator_up=True, jobs=3)


class Worker:
    """Our own hold on GPUs."""

    def __init__(self, told: list[str]) -> None:
        self.told, self.lets_go = told, True

    async def set_aside(self, bdf: str) -> bool:
        self.told.append(f"aside {bdf}")
        return self.lets_go

    async def take_back(self, bdf: str) -> None:
        self.told.append(f"back {bdf}")


class Bench:
    """A runner, what it told, and its hands."""

    def __init__(self, *stop_paths: Path) -> None:
        self.hands = Hands()
        self.told: asyncio.Queue[AnyObservation] = asyncio.Queue()
        node = initial(AT, Settings(kinds=default_settings()))
        self.node = lambda: node
        self.worker = Worker(self.hands.asked)
        self.runner = Runner(
            self.hands, self.told.put_nowait, lambda: AT, self.node, map(str, stop_paths), sessions=self.worker
        )

    async def heard(self) -> AnyObservation:
        async with asyncio.timeout(5.0):
            return await self.told.get()


async def test_an_intent_is_asked_for_once_while_it_is_under_way() -> None:
    """Begun twice, it is one question and one outcome."""
    bench = Bench()
    bench.runner.begin(INTENT)
    bench.runner.begin(INTENT)
    bench.hands.go.set()
    assert await bench.heard() == ActionEnded(at=AT, intent=INTENT.id, outcome=Outcome.DONE, detail="as asked")
    assert bench.hands.asked.count(INTENT.id) == 1
    assert bench.told.empty()


async def test_for_a_reset_our_own_worker_lets_go_and_takes_hold_again() -> None:
    """Also where the reset fails; a worker that cannot be ended is the reason not to ask at all."""
    bench = Bench()
    bench.hands.go.set()
    bench.hands.error = ActuatorError("gone")
    bench.runner.begin(replace(INTENT, bdf="0000:3b:00.0"))
    await bench.heard()
    assert bench.hands.asked == ["aside 0000:3b:00.0", INTENT.id, "back 0000:3b:00.0"]
    bench.hands.asked.clear()
    bench.worker.lets_go = False
    bench.runner.begin(replace(INTENT, id="c1/next", bdf="0000:3b:00.0"))
    told = await bench.heard()
    assert isinstance(told, ActionEnded)
    assert told.outcome is Outcome.REFUSED
    assert bench.hands.asked == ["aside 0000:3b:00.0", "back 0000:3b:00.0"]


async def test_no_answer_is_an_effect_unknown() -> None:
    """Whoever breaks off may have done it: that is not a failure, and not a success."""
    bench = Bench()
    bench.hands.error = ActuatorError("the connection is gone")
    bench.hands.go.set()
    bench.runner.begin(INTENT)
    told = await bench.heard()
    assert isinstance(told, ActionEnded)
    assert (told.outcome, told.detail) == (Outcome.EFFECT_UNKNOWN, "the connection is gone")


async def test_the_stop_switch_is_read_before_each_effect(tmp_path: Path) -> None:
    """A stop file that appears after the decision still stops it; what gives back goes on."""
    stop = tmp_path / "stop"
    bench = Bench(stop)
    bench.hands.go.set()
    stop.touch()
    bench.runner.begin(INTENT)
    told = await bench.heard()
    assert isinstance(told, ActionEnded)
    assert told.outcome is Outcome.REFUSED
    assert bench.hands.asked == []
    bench.runner.begin(replace(INTENT, id="c1/release", action=ActionKind.RELEASE))
    told = await bench.heard()
    assert isinstance(told, ActionEnded)
    assert told.outcome is Outcome.DONE


async def test_a_stop_switch_that_cannot_be_read_counts_as_on(tmp_path: Path) -> None:
    """A path below a file is no answer; None is told, and nothing is done."""
    (tmp_path / "file").touch()
    bench = Bench(tmp_path / "file" / "stop")
    watch = asyncio.create_task(bench.runner.watch_stop_switch())
    told = await bench.heard()
    watch.cancel()
    assert isinstance(told, StopRead)
    assert told.stopped is None


@pytest.mark.parametrize("said", [(True, "above 0"), (None, "no answer")])
async def test_the_stop_query_stops_too_and_hides_no_file(tmp_path: Path, said: tuple[bool | None, str]) -> None:
    """Above 0 and not known are both a refusal; with a stop file it is the file that is told, whatever else is."""
    stop = tmp_path / "stop"
    bench = Bench(stop)
    answer = [said]
    runner = Runner(
        bench.hands, bench.told.put_nowait, lambda: AT, bench.node, [str(stop)], stop_query=lambda: answer[0]
    )
    bench.hands.go.set()
    runner.begin(INTENT)
    assert await bench.heard() == ActionEnded(at=AT, intent=INTENT.id, outcome=Outcome.REFUSED, detail=said[1])
    stop.touch()
    for answer[0] in (said, (False, "")):
        watch = asyncio.create_task(runner.watch_stop_switch())
        assert await bench.heard() == StopRead(at=AT, stopped=True, detail=f"the stop switch {stop} is on")
        watch.cancel()
    stop.unlink()
    runner.begin(INTENT)
    told = await bench.heard()
    assert isinstance(told, ActionEnded)
    assert told.outcome is Outcome.DONE


async def test_what_the_actuator_sees_is_told_at_once_after_an_outcome() -> None:
    """Decisions that follow an effect are made with a look from after it."""
    bench = Bench()
    watch = asyncio.create_task(bench.runner.watch_surroundings())
    assert isinstance(await bench.heard(), SurroundingsSeen)
    bench.hands.go.set()
    bench.runner.begin(INTENT)
    assert isinstance(await bench.heard(), ActionEnded)
    assert isinstance(await bench.heard(), SurroundingsSeen)
    watch.cancel()
