"""A host under treatment: the engine, and an outside that does what is asked of it, or fails as a test says.

The journal here is what a restart finds: it is written after each step and before anybody is asked for an effect, as
the daemon does it. `crash_after` says at which points the engine is thrown away and another one started from the
journal. An answer of None is never told: who was asked has it, should he be asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from gpuwarden.engine import advance, failed, initial
from gpuwarden.model.case import ActionKind, Case, CaseState, Fleet, Intent, Memory, Outcome, Remedy, Surroundings
from gpuwarden.model.finding import Event
from gpuwarden.model.gpu import READINGS, GpuIdentity, Lane, Missing
from gpuwarden.model.kinds import default_settings
from gpuwarden.model.observation import (
    ActionEnded,
    AnyObservation,
    FleetAsked,
    ForgetGpu,
    GpuFailed,
    GpuOpened,
    GpuSampled,
    Injected,
    KernelLogged,
    LineKind,
    MemoryJudged,
    OperatorAsked,
    OperatorVerb,
    PciDevice,
    PciScanned,
    Restored,
    SessionOpened,
    Stamp,
    StopRead,
    SurroundingsSeen,
    Tick,
    WorkerChanged,
    WorkerState,
)
from gpuwarden.model.rows import inventory_row, latch_row
from gpuwarden.model.settings import RemedySettings, Settings
from gpuwarden.model.snapshot import NodeState
from gpuwarden.model.step import Do
from support.story import COOL, bdf, uuid

ENFORCE = dict.fromkeys(("mitigate", "isolate", "evict", "stop_workload", "reset", "reboot", "command"), "enforce")
DAYS_UP = 30 * 86_400.0
_NOTHING_ELSE = dict.fromkeys(READINGS, Missing.NOT_SUPPORTED)


def enforcing(**changes: object) -> RemedySettings:
    """Return settings under which everything may be done, on a host of Slurm with a fleet limit."""
    plain = RemedySettings(actions=ENFORCE, backend="slurm", fleet_max_hosts=2, announce_seconds=10.0)
    return replace(plain, **changes)


@dataclass
class Card:
    """One GPU of the outside. `cured_by`: the action that ends its fault; None never does."""

    number: int
    fault: int | None = None  # an Xid
    lost: bool = False
    cured_by: ActionKind | None = None
    jobs: int = 0
    energy_joules: float = 1000.0
    said_at: float = 0.0
    says: dict[str, float] = field(default_factory=dict)  # readings besides those of a cool and idle card
    left: bool = False  # taken out of the host


@dataclass
class Done:
    """An effect that was brought about, and how the case stood then."""

    intent: Intent
    case: Case | None
    cards_well: bool
    mark_before: str


@dataclass
class Ward:
    """The host. `answers` decides what becomes of an intent: its outcome, and whether it has its effect."""

    cards: int = 2
    remedy: RemedySettings = field(default_factory=enforcing)
    tick_seconds: float = 5.0
    answers: Callable[[Intent], tuple[Outcome | None, bool]] = lambda _: (Outcome.DONE, True)
    known: bool = True  # watched for long: its journal remembers more than a day

    def __post_init__(self) -> None:
        self.boots, self.boottime, self.wall = 0, DAYS_UP, 1_790_000_000.0
        self.outside = [Card(number) for number in range(self.cards)]
        self.mark, self.slot = "", False
        self.stopped: bool | None = False
        self.actuator_up, self.identity = True, True
        self.journal_writable = True
        self.fleet: Fleet | None = None
        self.done: list[Done] = []
        self.known_intents: dict[str, Outcome] = {}  # the actuator's ledger
        self.events: list[Event] = []
        self.states: list[tuple[CaseState, ...]] = []
        self.errors: list[str] = []
        self.crash_after: Callable[[str], bool] = lambda _: False
        life = 30 * 86_400.0 if self.known else 0.0
        self.journal = Restored(at=self.at, inventory=(), latches=(), counters=(), remedy=Remedy(life=life))
        self.settings = Settings(kinds=default_settings(), remedy=self.remedy)
        self.node: NodeState = initial(self.at, self.settings)
        self._start()

    @property
    def at(self) -> Stamp:
        return Stamp(f"{self.boots:08d}-0000-4000-8000-000000000000", self.boottime, self.wall)

    # ---- the daemon

    def _start(self) -> None:
        self.node = initial(self.at, self.settings)
        self.take(replace(self.journal, at=self.at))
        self.take(MemoryJudged(at=self.at, memory=Memory(durable=True, detail="")))
        self._session()

    def _session(self) -> None:
        self.take(WorkerChanged(at=self.at, state=WorkerState.UP, since=self.boottime))
        self.take(
            SessionOpened(
                at=self.at, driver="580.1", nvml="13", cuda="13.0", count=sum(not card.left for card in self.outside)
            )
        )
        for card in self.outside:
            if not (card.lost or card.left):
                identity = GpuIdentity(uuid=uuid(card.number), bdf=bdf(card.number), serial=f"S{card.number}")
                self.take(GpuOpened(at=self.at, index=card.number, identity=identity))

    def take(self, observation: AnyObservation) -> None:
        """Take one observation as the daemon does: the step, the journal, then the effects."""
        try:
            step = advance(self.node, observation)
        except Exception as error:
            self.errors.append(repr(error))
            self.node = failed(self.node)
            return
        before, self.node = self.node, step.state
        self.events += step.events
        states = tuple(case.state for case in self.node.remedy.cases.values())
        if not self.states or states != self.states[-1]:
            self.states.append(states)
        changed = bool(step.events) or before.remedy is not step.state.remedy
        if changed and self.crash_after("step"):
            self.restart()
            if isinstance(observation, KernelLogged):
                self.take(observation)  # its place in the log was not written down: it is read again
            return
        if changed:
            self._write()
            if self.crash_after("write"):
                self.restart()
                return
        for command in step.commands:
            if isinstance(command, Do):
                self.bring_about(command.intent)

    def _write(self) -> None:
        node = self.node
        self.journal = Restored(
            at=self.at,
            inventory=tuple(inventory_row(gpu, node.now.boot_id) for gpu in node.gpus.values()),
            latches=tuple(latch_row(incident) for incident in node.incidents.values()),
            counters=(),
            remedy=msgspec.json.decode(msgspec.json.encode(node.remedy), type=Remedy),
        )

    def restart(self) -> None:
        """Throw the daemon away and start another one from the journal."""
        self._start()

    def go_down(self, seconds: float) -> bool:
        """Let time pass in which no daemon runs."""
        self.boottime, self.wall = self.boottime + seconds, self.wall + seconds
        return True

    # ---- the outside

    def bring_about(self, intent: Intent) -> None:
        """Do what is asked, at most once per intent, and tell the outcome."""
        written = self.journal.remedy.cases.get(intent.case)
        if written is None or written.intent != intent:
            self.errors.append(f"{intent.id} was not written down")
        self.boottime, self.wall = self.boottime + 2.0, self.wall + 2.0
        outcome = self.known_intents.get(intent.id)
        if outcome is None:
            answer, effect = self.answers(intent)
            if effect:
                answer = self._effect(intent) or answer
            unheard = Outcome.DONE if effect else Outcome.EFFECT_UNKNOWN  # what the ledger says when asked again
            outcome = self.known_intents[intent.id] = answer or unheard
            if effect and intent.action is ActionKind.RESET:
                self._session()
            if effect and intent.action is ActionKind.REBOOT:
                self.reboot()
            if answer is None:
                return
            if self.crash_after("effect"):
                self.restart()
                return
        if intent.action is ActionKind.REBOOT and intent.made.boot_id != self.at.boot_id:
            return  # the host went down with whoever would have told it
        self.take(ActionEnded(at=self.at, intent=intent.id, outcome=outcome))
        if self.crash_after("told"):
            self.restart()

    def _effect(self, intent: Intent) -> Outcome | None:
        case = self.node.remedy.cases.get(intent.case)
        well = all(card.fault is None for card in self.outside if uuid(card.number) == intent.uuid)
        self.done.append(Done(intent, case, well, self.mark))
        match intent.action:
            case ActionKind.TAKE_SLOT:
                self.slot = True
            case ActionKind.RETURN_SLOT:
                self.slot = False
            case ActionKind.ISOLATE:
                if self.mark not in ("", intent.mark):
                    self.done.pop()
                    return Outcome.REFUSED
                self.mark = intent.mark
            case ActionKind.RELEASE:
                if self.mark != intent.mark:
                    self.done.pop()
                    return Outcome.REFUSED
                self.mark = ""
            case ActionKind.EVICT:
                for card in self.outside:
                    card.jobs = 0
            case ActionKind.RESET:
                self._heal(intent, ActionKind.RESET)
        return None

    def _heal(self, intent: Intent | None, by: ActionKind) -> None:
        for card in self.outside:
            of_this = intent is None or uuid(card.number) == intent.uuid
            if of_this and card.cured_by in (by, ActionKind.RESET):
                card.fault, card.lost = None, False
            if of_this:
                card.energy_joules = 1.0

    def reboot(self) -> None:
        """Have the host go down and come up again."""
        self._heal(None, ActionKind.REBOOT)
        for card in self.outside:
            card.jobs = 0
        self.boots += 1
        self.boottime, self.wall = 60.0, self.wall + 240.0
        self.restart()

    def fault(self, number: int, xid: int, *, cured_by: ActionKind | None, from_kernel: bool = True) -> None:
        """Let a GPU fail with an Xid; 79 takes it off the bus."""
        card = self.outside[number]
        if from_kernel:
            card.fault, card.cured_by, card.lost = xid, cured_by, xid == 79
            card.said_at = self.boottime // 30
        self._say(number, xid, from_kernel=from_kernel)

    def _say(self, number: int, xid: int, *, from_kernel: bool = True) -> None:
        self.take(
            KernelLogged(
                at=self.at,
                kind=LineKind.XID,
                code=xid,
                bdf=bdf(number).partition(".")[0],
                pid=None,
                text=f"Xid {xid}",
                from_kernel=from_kernel,
                sequence=1,
            )
        )

    def drill(self, active: bool) -> None:
        """Announce a drill, or its end."""
        self.take(Injected(at=self.at, active=active, detail="test"))

    def leave(self, number: int) -> None:
        """Take a GPU out of the host and have it forgotten."""
        self.outside[number].left = True
        self.tick()
        self._session()
        self.take(ForgetGpu(at=self.at, uuid=uuid(number)))

    def ask(self, verb: OperatorVerb, number: int | None = None, case: str = "") -> None:
        """Ask as an operator does."""
        name = "" if number is None else uuid(number)
        self.take(OperatorAsked(at=self.at, verb=verb, uuid=name, case=case, by="test"))

    # ---- time

    def run(self, seconds: float) -> None:
        """Let time pass, a look at everything each tick."""
        for _ in range(max(1, round(seconds / self.tick_seconds))):
            self.boottime += self.tick_seconds
            self.wall += self.tick_seconds
            self.tick()

    def tick(self) -> None:
        """Make every observation there is to make at this moment."""
        there = [card for card in self.outside if not card.left]
        present = [card for card in there if not card.lost]
        devices = tuple(PciDevice(bdf=bdf(card.number), driver="nvidia") for card in there)
        self.take(PciScanned(at=self.at, readable=True, devices=devices, module_version="580.1"))
        for card in there:
            card.energy_joules += 100.0
            if card.fault is not None and not card.lost and card.said_at != self.boottime // 30:
                card.said_at = self.boottime // 30  # what is not cured goes on being said
                self._say(card.number, card.fault)
            if card.lost:
                self.take(GpuFailed(at=self.at, index=card.number, bdf=bdf(card.number), code=15, where="handle"))
        for card in present:
            values = _NOTHING_ELSE | COOL | {"processes": card.jobs, "energy_joules": card.energy_joules} | card.says
            self.take(
                GpuSampled(at=self.at, index=card.number, bdf=bdf(card.number), lane=Lane.FAST, values=dict(values))
            )
        self.take(StopRead(at=self.at, stopped=self.stopped))
        self.take(SurroundingsSeen(at=self.at, surroundings=self.surroundings()))
        if self.fleet is not None:
            self.take(FleetAsked(at=self.at, fleet=self.fleet))
        self.take(Tick(at=self.at))

    def surroundings(self) -> Surroundings:
        """Return what the actuator sees."""
        jobs = sum(card.jobs for card in self.outside)
        return Surroundings(
            actuator_up=self.actuator_up,
            stopped=self.stopped,
            identity=self.identity,
            isolated=bool(self.mark),
            mark=self.mark,
            jobs=jobs,
            holders={bdf(card.number): card.jobs for card in self.outside},
            logged_in=0,
            held_hosts=0,
        )

    # ---- what a test looks at

    @property
    def case(self) -> Case:
        """Return the one open case."""
        (case,) = self.node.remedy.cases.values()
        return case

    def effects(self) -> list[str]:
        """Return what was brought about, in order."""
        return [done.intent.action.value for done in self.done]

    def course(self) -> list[str]:
        """Return the states the cases went through, as they were told."""
        return [event.state for event in self.events if event.kind == "case"]
