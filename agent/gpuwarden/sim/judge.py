"""A scenario put through the engine on virtual time: what came of it, against what the scenario expects."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from gpuwarden.engine import advance, initial
from gpuwarden.model.case import Remedy
from gpuwarden.model.finding import Event
from gpuwarden.model.observation import AnyObservation, KernelLogged
from gpuwarden.model.rows import kept_of
from gpuwarden.model.settings import Settings
from gpuwarden.model.snapshot import NodeState
from gpuwarden.model.step import Do, QuietGpu, ReopenNvml
from gpuwarden.sim.scenario import Expect, Scenario
from gpuwarden.sim.virtual import VirtualNode

LOGGED = frozenset({"incident", "case", "action"})
_WATCHED_SECONDS = 30 * 86_400.0  # the node of a scenario is no stranger: it was watched for a month


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the case log, `seconds` after the start: what became of an incident, a case or an action.

    `incident` is the name of the finding, or of the action.
    """

    seconds: float
    kind: str
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
        settings = replace(settings, throughput_metric=scenario.throughput_metric)
    run = _Run(scenario, settings, heard)
    for observation in run.node.observations():
        run.take(observation)
        if run.node.rebooted():
            run.begin_anew()
    rows = tuple(Row(expect=row, came_after_seconds=_came(row, run.log, run.lines)) for row in scenario.expect)
    unexpected = tuple(
        line
        for line in run.log
        if (line.kind, line.state) == ("incident", "opened") and not _is_expected(scenario, line)
    )
    met = all(row.came_after_seconds is not None for row in rows)
    return Outcome(
        scenario=scenario.name,
        ok=met and not (scenario.only_expected and unexpected),
        rows=rows,
        unexpected=unexpected if scenario.only_expected else (),
        log=tuple(run.log),
        state=run.state,
    )


class _Run:
    """A scenario in progress: the node, and an engine that begins anew when the node's host was rebooted."""

    def __init__(self, scenario: Scenario, settings: Settings, heard: Callable[[AnyObservation], None] | None) -> None:
        self.node = VirtualNode(scenario, settings)
        self.state = initial(self.node.now, settings)
        self.log: list[Line] = []
        self.lines: list[tuple[float, str]] = []
        self._started = self.node.now.wall
        self._heard = heard
        self.state = replace(self.state, remedy=Remedy(life=_WATCHED_SECONDS))

    def take(self, observation: AnyObservation) -> None:
        """Put one observation through the engine, and have done what it asks for."""
        if self._heard is not None:
            self._heard(observation)
        if isinstance(observation, KernelLogged):
            self.lines.append((observation.at.wall - self._started, observation.text))
        step = advance(self.state, observation)
        self.state = step.state
        self.log += [_line(event, self._started) for event in step.events if event.kind in LOGGED]
        for command in step.commands:
            match command:
                case QuietGpu():
                    self.node.quiet(command.bdf)
                case ReopenNvml():
                    self.node.reopen(command.reason)
                case Do():
                    self.node.bring_about(command.intent)

    def begin_anew(self) -> None:
        """Start the engine as a daemon does after a reboot: with what the journal would have kept."""
        before, at = self.state, self.node.now
        self.state = initial(at, before.settings)
        self.take(kept_of(before, at))
        for observation in self.node.opening():
            self.take(observation)


def _line(event: Event, started: float) -> Line:
    return Line(
        seconds=round(event.time - started, 1),
        kind=event.kind,
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
        times = [line.seconds for line in log if _meets(row, line)]
    return next((seconds for seconds in times if seconds <= row.within_seconds), None)


def _meets(row: Expect, line: Line) -> bool:
    wanted = {
        "incident": (row.incident, "opened"),
        "case": (line.incident, row.case),
        "action": (row.action, row.outcome),
    }[line.kind]
    asked_for = bool({"incident": row.incident, "case": row.case, "action": row.action}[line.kind])
    return asked_for and (line.incident, line.state) == wanted and row.gpu in (None, line.gpu)


def _is_expected(scenario: Scenario, line: Line) -> bool:
    return any(_meets(row, line) for row in scenario.expect)
