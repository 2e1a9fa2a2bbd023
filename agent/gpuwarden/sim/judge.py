"""A scenario put through the engine on virtual time: what came of it, against what the scenario expects."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gpuwarden.engine import advance, initial
from gpuwarden.model.finding import Event
from gpuwarden.model.observation import AnyObservation, KernelLogged
from gpuwarden.model.settings import Settings
from gpuwarden.model.snapshot import NodeState
from gpuwarden.model.step import QuietGpu, ReopenNvml
from gpuwarden.sim.scenario import Expect, Scenario
from gpuwarden.sim.virtual import VirtualNode


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the case log: an incident opened, changed or cleared, `seconds` after the start."""

    seconds: float
    state: str
    incident: str
    severity: str
    gpu: int | None
    evidence: dict[str, str | int | float | bool | None] = {}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One expected thing and when it came, None where it did not come in time."""

    expect: Expect
    came_after_seconds: float | None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a scenario. `unexpected` are the incidents that no row expects, where that is a failure."""

    scenario: str
    ok: bool
    rows: tuple[Row, ...]
    unexpected: tuple[Line, ...]
    log: tuple[Line, ...]
    state: NodeState


def judge(scenario: Scenario, settings: Settings, heard: Callable[[AnyObservation], None] | None = None) -> Outcome:
    """Run a scenario and compare. `heard` is told each observation, for a progress line or a capture."""
    if scenario.throughput_metric:
        settings = msgspec.structs.replace(settings, throughput_metric=scenario.throughput_metric)
    node = VirtualNode(scenario, settings)
    started = node.now.wall
    state = initial(node.now, settings)
    log: list[Line] = []
    lines: list[tuple[float, str]] = []
    for observation in node.observations():
        if heard is not None:
            heard(observation)
        if isinstance(observation, KernelLogged):
            lines.append((observation.at.wall - started, observation.text))
        step = advance(state, observation)
        state = step.state
        log += [_line(event, started) for event in step.events if event.kind == "incident"]
        for command in step.commands:
            match command:
                case QuietGpu():
                    node.quiet(command.bdf)
                case ReopenNvml():
                    node.reopen(command.reason)
    rows = tuple(Row(expect=row, came_after_seconds=_came(row, log, lines)) for row in scenario.expect)
    unexpected = tuple(line for line in log if line.state == "opened" and not _is_expected(scenario, line))
    met = all(row.came_after_seconds is not None for row in rows)
    return Outcome(
        scenario=scenario.name,
        ok=met and not (scenario.only_expected and unexpected),
        rows=rows,
        unexpected=unexpected if scenario.only_expected else (),
        log=tuple(log),
        state=state,
    )


def _line(event: Event, started: float) -> Line:
    return Line(
        seconds=round(event.time - started, 1),
        state=event.state,
        incident=event.name,
        severity=event.severity,
        gpu=event.gpu,
        evidence=event.evidence,
    )


def _came(row: Expect, log: list[Line], lines: list[tuple[float, str]]) -> float | None:
    """Return when an expected thing came first, None where it did not come in time."""
    if row.kernel:
        times = [seconds for seconds, text in lines if row.kernel in text]
    else:
        times = [line.seconds for line in log if line.state == "opened" and _meets(row, line)]
    return next((seconds for seconds in times if seconds <= row.within_seconds), None)


def _meets(row: Expect, line: Line) -> bool:
    return row.incident == line.incident and row.gpu in (None, line.gpu)


def _is_expected(scenario: Scenario, line: Line) -> bool:
    return any(_meets(row, line) for row in scenario.expect)
