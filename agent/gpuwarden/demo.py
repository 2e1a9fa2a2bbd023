"""The demo's story: what the script does and what gpuwarden makes of it, line by line, and whether all of it was seen.

Pure: the time and the daemon's events go in, lines and the verdict come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gpuwarden.model.kinds import KINDS
from gpuwarden.sim.faults import FAULTS
from gpuwarden.sim.scenario import Expect, Scenario, Step

_OPENED, _CLEARED = "opened", "cleared"


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the story: when (seconds of the simulated node), by whom ("script" or "agent"), and what."""

    seconds: float
    who: str
    text: str

    def __str__(self) -> str:
        minutes, rest = divmod(int(self.seconds), 60)
        return f"{minutes}:{rest:02d}  {self.who:<6}  {self.text}"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it all."""

    good: bool
    seen: int
    expected: int
    not_seen: tuple[str, ...]
    not_in_the_script: tuple[str, ...]


class Story:
    """Follows one scenario. Times are seconds of the simulated node."""

    def __init__(self, scenario: Scenario, first_event: float = 0.0) -> None:
        self._scenario = scenario
        self._steps = sorted(scenario.at, key=lambda step: step.seconds)
        self._told = 0
        self._last = first_event
        self._seen_at_last: list[Mapping[str, Any]] = []
        self.met: list[Expect] = []
        self.unexpected: list[str] = []

    def lines(self, seconds: float, events: Sequence[Mapping[str, Any]]) -> list[Line]:
        """Return what is new: steps of the script that are due, then incidents that opened or ended."""
        told = []
        while self._told < len(self._steps) and self._steps[self._told].seconds <= seconds:
            step = self._steps[self._told]
            told.append(Line(seconds=step.seconds, who="script", text=_step(step)))
            self._told += 1
        for event in self._new(events):
            self._check(event)
            if event["kind"] == "incident" and event["state"] in (_OPENED, _CLEARED):
                told.append(Line(seconds=seconds, who="agent", text=_incident(event)))
        return told

    def is_over(self, seconds: float) -> bool:
        """Return whether the script has been played to its end."""
        return seconds >= self._scenario.seconds

    @property
    def missed(self) -> list[Expect]:
        """What the scenario expects and nobody has seen."""
        return [expect for expect in self._scenario.expect if expect not in self.met]

    def verdict(self) -> Verdict:
        """Return what was seen, and each thing that was not or should not have been."""
        return Verdict(
            good=self.is_good,
            seen=len(self.met),
            expected=len(self._scenario.expect),
            not_seen=tuple(_expectation(expect) for expect in self.missed),
            not_in_the_script=tuple(self.unexpected),
        )

    @property
    def is_good(self) -> bool:
        """Whether everything that was expected was seen, and nothing else where the scenario says so."""
        return not self.missed and not self.unexpected

    def _new(self, events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the events not yet told; several may carry the same time."""
        fresh = [event for event in events if event["time"] >= self._last and event not in self._seen_at_last]
        if fresh:
            last = max(event["time"] for event in fresh)
            kept = self._seen_at_last if last == self._last else []
            self._seen_at_last = [*kept, *(event for event in fresh if event["time"] == last)]
            self._last = last
        return fresh

    def _check(self, event: Mapping[str, Any]) -> None:
        hits = [expect for expect in self._scenario.expect if _meets(event, expect)]
        self.met += [expect for expect in hits if expect not in self.met]
        opened = event["kind"] == "incident" and event["state"] == _OPENED
        known = {(expect.incident, expect.gpu) for expect in self._scenario.expect}
        if opened and self._scenario.only_expected and (event["name"], event["gpu"]) not in known:
            self.unexpected.append(f"{event['name']} of {_who(event['gpu'])}")


def _meets(event: Mapping[str, Any], expect: Expect) -> bool:
    if expect.kernel:
        return event["kind"] == "finding" and expect.kernel in str(event["evidence"].get("text", ""))
    is_incident = event["kind"] == "incident" and event["state"] == _OPENED and event["name"] == expect.incident
    return is_incident and expect.gpu in (None, event["gpu"])


def _who(gpu: int | None) -> str:
    return "host" if gpu is None else f"GPU {gpu}"


def _step(step: Step) -> str:
    where = "" if step.gpu is None else f"GPU {step.gpu}: "
    if step.say:
        return where + step.say
    return f"{where}{step.fault} is over" if step.clear else f"{where}{FAULTS[step.fault].what}"


def _incident(event: Mapping[str, Any]) -> str:
    kind = KINDS.get(event["name"])
    title = kind.title if kind is not None else ""
    if event["state"] == _CLEARED:
        return f"{_who(event['gpu'])}: over: {event['name']}"
    return f"{_who(event['gpu'])}: {event['severity']}: {title} ({event['name']})"


def _expectation(expect: Expect) -> str:
    what = expect.incident or f"a kernel line with {expect.kernel!r}"
    return f"{what} of {_who(expect.gpu)} within {expect.within_seconds:g} s"
