"""Captures on their way to who asked: bounded, one at a time, and whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuwarden.capture import read_capture
from gpuwarden.capture_stream import CaptureStream
from gpuwarden.errors import InputError
from gpuwarden.model.observation import AnyObservation
from support.story import Story

LOST = 15


class Watched(Story):
    """A story whose steps a capture stream is told, with a clock that tests move."""

    def __init__(self, most_waiting_bytes: int = 1 << 20) -> None:
        self.seconds = 0.0
        self.stream: CaptureStream | None = None
        super().__init__()
        self.stream = CaptureStream(
            lambda: self.node, "rig7", clock=lambda: self.seconds, most_waiting_bytes=most_waiting_bytes
        )

    def take(self, observation: AnyObservation) -> None:
        told = len(self.events)
        super().take(observation)
        if self.stream is not None:
            self.stream.taken(observation, self.events[told:])

    async def ask(self, action: str, number: int = 0, **more: object) -> str:
        """Return the lines that are answered."""
        assert self.stream is not None
        answer = await self.stream.answer({"action": action, "number": number, **more})
        return str(answer["lines"])


async def test_what_is_fetched_in_pieces_is_one_capture(tmp_path: Path) -> None:
    """Header, observations and decisions in order, boards masked; what comes after the stop is not in it."""
    story = Watched()
    story.started(2)
    parts = [await story.ask("start")]
    story.failed(1, LOST)
    parts.append(await story.ask("fetch", 1))
    story.wait(2)
    parts.append(await story.ask("stop", 1))
    story.wait(5)
    (tmp_path / "c").write_text("".join(parts))
    found = list(read_capture(tmp_path / "c"))
    assert [type(each.observation).__name__ for each in found][:1] == ["GpuFailed"]
    assert any(event.name == "presence.gpu_lost" for each in found for event in each.events)
    assert story.node.gpus.keys().isdisjoint({event.uuid for each in found for event in each.events})


async def test_unmasked_where_that_was_asked_for() -> None:
    """Names as they are, only on demand."""
    story = Watched()
    story.started(1)
    (uuid,) = story.node.gpus
    assert uuid in await story.ask("start", mask=False)
    await story.ask("stop", 1)
    assert uuid not in await story.ask("start")


async def test_one_at_a_time_until_it_is_forgotten() -> None:
    """A second capture is refused; one whose client went away gives way after a while."""
    story = Watched()
    await story.ask("start")
    with pytest.raises(InputError, match="one at a time"):
        await story.ask("start")
    story.seconds += 31
    await story.ask("start")
    with pytest.raises(InputError, match="has ended"):
        await story.ask("fetch", 1)
    await story.ask("fetch", 2)


async def test_nobody_who_fetches_costs_nothing_for_long() -> None:
    """Too many bytes or seconds without a fetch end the capture, and the next fetch says so."""
    story = Watched(most_waiting_bytes=10)
    await story.ask("start")
    story.wait(1)
    story.wait(1)
    with pytest.raises(InputError, match="has ended"):
        await story.ask("fetch", 1)


@pytest.mark.parametrize("body", [{}, {"action": "eat"}, {"action": "stop", "number": "1"}, {"action": "stop", "a": 1}])
async def test_bad_requests_are_refused(body: dict[str, object]) -> None:
    """With what is wrong, by type and name."""
    with pytest.raises(InputError):
        await CaptureStream(lambda: Story().node, "rig7").answer(body)
