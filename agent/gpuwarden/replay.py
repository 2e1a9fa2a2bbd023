"""A capture through the engine again: the decisions it comes to now, beside those it came to then. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

import msgspec

from gpuwarden.capture import Capture
from gpuwarden.engine import advance, initial
from gpuwarden.model.finding import Event


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One event as far as two runs can agree on it: no incident number, no evidence that a window's age is part of."""

    seconds: float  # since the capture began, of the observation that led to it
    kind: str
    name: str
    state: str
    severity: str
    gpu: int | None
    uuid: str | None
    drill: bool

    def line(self) -> str:
        """Return the decision as one line."""
        where = "host" if self.gpu is None and self.uuid is None else f"gpu{'?' if self.gpu is None else self.gpu}"
        what = f"{self.severity:<8}  {self.kind:<8}  {self.state:<8}  {where:<5} {self.name}"
        return f"{self.seconds:+9.1f}s  {what}{' DRILL' if self.drill else ''}"


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay came to. `then` is what the capture holds, `now` what this engine says."""

    observations: int
    then: tuple[Decision, ...]
    now: tuple[Decision, ...]
    truncated: bool

    @property
    def same(self) -> bool:
        """Whether both runs decided the same, in the same order."""
        return self.then == self.now

    def diff(self) -> Iterator[str]:
        """Yield the lines of a unified diff; none where both are the same."""
        then, now = ([each.line() for each in decisions] for decisions in (self.then, self.now))
        return difflib.unified_diff(then, now, fromfile="captured", tofile="replayed", lineterm="", n=1)


def replay(capture: Capture) -> Replayed:
    """Put every observation of a capture through the engine. Raises: InputError where the file is damaged."""
    header = capture.header
    node = initial(header.at, header.settings)
    for observation in header.opening:
        node = advance(node, observation).state
    then: list[Decision] = []
    now: list[Decision] = []
    count = 0
    for taken in capture:
        step = advance(node, taken.observation)
        node = step.state
        seconds = taken.observation.at.boottime - header.at.boottime
        then += _decisions(taken.events, seconds)
        now += _decisions(step.events, seconds)
        count += 1
    return Replayed(observations=count, then=tuple(then), now=tuple(now), truncated=capture.truncated)


def _decisions(events: Iterable[Event], seconds: float) -> Iterator[Decision]:
    for event in events:
        yield Decision(
            seconds=round(seconds, 3),
            kind=event.kind,
            name=event.name,
            state=event.state,
            severity=event.severity,
            gpu=event.gpu,
            uuid=event.uuid,
            drill=event.drill,
        )
