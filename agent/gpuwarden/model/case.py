"""Remediation as records: what is done about a sick GPU, how far it has come, and what it waits for.

A case is about one GPU (or the host) and moves by the transitions of `remediation/machine.py`. Everything that has an
effect outside gpuwarden's own files is an `Intent`: written down before it is tried, done at most once.
"""

from __future__ import annotations

import enum

import msgspec

from gpuwarden.model.stamp import Stamp


class ActionKind(enum.Enum):
    """What can be done to the world. Values are labels of `gpuwarden_actions_total{action}`."""

    MITIGATE = "mitigate"  # power cap, clock lock, fan: leases of the heat governor
    TAKE_SLOT = "take_slot"  # of the fleet, before anything is isolated
    ISOLATE = "isolate"  # keep new work away: drain, taint, stop units
    EVICT = "evict"  # end jobs through their scheduler
    STOP_WORKLOAD = "stop_workload"  # end the processes on one GPU where no scheduler owns them
    RESET = "reset"
    REBOOT = "reboot"
    COMMAND = "command"  # an executable of actions.d
    RELEASE = "release"  # take back what ISOLATE did
    RETURN_SLOT = "return_slot"


GIVES_BACK = frozenset({ActionKind.RELEASE, ActionKind.RETURN_SLOT})
"""What only undoes our own doing: no guard but proof of ownership holds it."""

SCHEDULERS = frozenset({"slurm", "kubernetes"})
"""Back ends that own the work of a node, and know the node by a name."""

LOOK_FRESH_SECONDS = 120.0
"""How old a look at the surroundings may be."""

NOT_READ = "not read yet"
FOREVER = 253_402_300_800.0
"""The year 10000 as Unix time: until an operator says otherwise."""

DISRUPTIVE = frozenset(
    {ActionKind.EVICT, ActionKind.STOP_WORKLOAD, ActionKind.RESET, ActionKind.REBOOT, ActionKind.COMMAND}
)
"""What ends somebody's work or takes a device away: at most one of these is under way on a host."""


class Urgency(enum.Enum):
    """When a rung may be climbed. In falling urgency."""

    NOW = "now"  # the work is dead or producing wrong results
    JOB_END = "job_end"  # no new work; wait without limit for what runs
    IDLE = "idle"  # when there happens to be nothing to disturb


class Rung(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a ladder. `action` None is the rung `hold`: a person decides.

    `attempts` are made with `wait_seconds` between them; the proof must be complete within `proof_seconds` of the
    action's end and stay so for `soak_seconds`.
    """

    action: ActionKind | None
    command: str = ""  # of COMMAND: a name in actions.d
    attempts: int = 1
    wait_seconds: float = 0.0
    proof_seconds: float = 300.0
    soak_seconds: float = 120.0
    deadline_seconds: float = 300.0  # of the action itself

    @property
    def name(self) -> str:
        """Return the rung as configuration writes it: `reset`, `command:<name>`, `hold`."""
        if self.action is None:
            return "hold"
        return f"command:{self.command}" if self.action is ActionKind.COMMAND else self.action.value


class Treatment(msgspec.Struct, frozen=True, kw_only=True):
    """What is done about one finding kind. No rungs: it is shown and paged, and left to people.

    An incident must have been open for `patience_seconds` before anything is done about it.
    """

    urgency: Urgency = Urgency.IDLE
    rungs: tuple[Rung, ...] = ()
    patience_seconds: float = 0.0


class Outcome(enum.Enum):
    """What became of an effect. Never a proof of repair."""

    DONE = "done"
    REFUSED = "refused"  # not begun, for a reason; nothing has changed
    FAILED = "failed"  # begun, and known to have had no effect
    EFFECT_UNKNOWN = "effect_unknown"  # past its deadline, or its teller died: look, never blindly repeat


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """One effect, wanted. The same `id` always means the same effect: whoever is asked twice does it once."""

    id: str  # "<case>/<rung>.<attempt>.<number of the intent in its case>/<action>"
    case: str
    action: ActionKind
    made: Stamp
    uuid: str | None = None
    bdf: str = ""
    serial: str = ""
    command: str = ""
    mark: str = ""  # what is left at the scheduler, and must be found there before it is taken away
    deadline_seconds: float = 60.0
    before: ActionKind | None = None  # of EVICT: what work is to make way for
    resume: bool = False  # of RELEASE: this case rebooted the host, so a node that is down by that is ours to resume


class CaseState(enum.Enum):
    """Where a case stands. Order of a good course; HELD is left by an operator only."""

    OPENED = "opened"
    WAITING = "waiting"
    ISOLATING = "isolating"
    ACTING = "acting"
    VERIFYING = "verifying"
    SOAKING = "soaking"
    RELEASING = "releasing"
    HELD = "held"
    CLOSED = "closed"


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One case: the treatment of one GPU, or of the host where `uuid` is None.

    `kind` is the finding that leads, `kinds` all that joined. `rung` and `attempt` count from 0; `guards` are the
    names of what holds the next step, in the order of the guards' table. `intent` is an effect that was asked for and
    has no outcome yet. `slot_taken` and `isolated` are what of the outside is ours to give back; with
    `slot_doubtful` or `isolation_doubtful` it may be: it is given back like what is, and never relied upon.
    """

    id: str
    kind: str
    kinds: tuple[str, ...]
    uuid: str | None
    serial: str = ""
    bdf: str = ""
    gpu: int | None = None
    opened: Stamp
    state: CaseState = CaseState.OPENED
    since: Stamp
    treatment: Treatment
    rung: int = 0
    attempt: int = 0
    tried: bool = False  # the action of this rung and attempt was begun
    refusals: int = 0  # of it, one after the other
    guards: tuple[str, ...] = ()
    held_once: tuple[str, ...] = ()  # guards that held this case at any time: counted once each
    intent: Intent | None = None
    slot_taken: bool = False
    slot_doubtful: bool = False
    isolated: bool = False  # by us: `mark` stands at the scheduler
    isolation_doubtful: bool = False
    isolated_at: Stamp | None = None
    mark: str = ""
    isolating_since: Stamp | None = None
    begun: Stamp | None = None  # when the last action of a rung was asked for
    acted: Stamp | None = None  # when it ended, or was given up on
    acts: int = 0  # actions of rungs that were begun
    last_act: ActionKind | None = None  # the last of them: what is to be proven
    rebooted: bool = False  # by this case
    proven_since: Stamp | None = None
    missing_proofs: tuple[str, ...] = ()
    approved: bool = False  # of the present rung
    cancelled: bool = False
    forgotten: bool = False  # an operator had its GPU forgotten
    evicted: bool = False  # jobs were ended at the deadline; it is not done twice
    told_shadow: bool = False  # of the present rung
    drill: bool = False
    free_by: str = ""  # what lets it be released: proof, operator, cancelled, nothing_done, drill
    why: str = ""  # of the last transition, for people
    asks: int = 0  # intents made: no two of a case have the same name
    tries: int = 0  # that failed in this state, one after the other
    retry_at: Stamp | None = None  # before which nothing is tried again; another boot waits for nothing


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A disruptive action that was begun: what budgets, cool-downs and recurrence are counted from."""

    uuid: str
    serial: str
    kind: str
    rung: str
    at: Stamp
    life: float  # `Remedy.life` at that moment


class Left(msgspec.Struct, frozen=True, array_like=True):
    """An open incident that no further case is opened for: its case ended by an operator's word, or was a drill."""

    kind: str
    uuid: str
    opened: Stamp
    drill: bool


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's word that a GPU (or the host, `uuid` "") is not to be touched."""

    uuid: str
    since: float  # wall
    why: str = ""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What is seen around the node right now, through the actuator and its back ends. None: could not be told.

    `jobs` are those of the scheduler on this node; `holders` the processes that hold each GPU's device, by BDF.
    """

    actuator_up: bool = False
    detail: str = ""
    stopped: bool | None = None
    identity: bool | None = None  # the scheduler's node is provably this host
    isolated: bool | None = None  # no new work comes, whoever saw to that
    mark: str = ""  # what the scheduler gives as the reason
    jobs: int | None = None
    holders: dict[str, int] | None = None
    logged_in: int | None = None
    slots_free: int | None = None
    jobs_on: dict[str, int] | None = None  # the scheduler's jobs by GPU's BDF, where it tells
    held_hosts: int | None = None
    record: str = ""  # what is written beside the mark: case, rung, attempt


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """What a query of the fleet said: all hosts, and the others that are out while this one has a case open.

    `hosts_with` are hosts on which a kind was newly opened within 15 minutes.
    """

    hosts: int
    hosts_out: int
    hosts_with: dict[str, int] = {}


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the journal is proven to outlive a reboot: it holds a row of an earlier boot, or lies on a local disk."""

    durable: bool = False
    detail: str = "not looked at yet"


class Remedy(msgspec.Struct, frozen=True, kw_only=True):
    """What of remediation survives a restart. Written as one row, with the events of the step that changed it."""

    cases: dict[str, Case] = {}  # open ones, by id, in the order they were opened
    attempts: tuple[Attempt, ...] = ()  # the newest last, bounded
    holds: dict[str, Hold] = {}
    left: tuple[Left, ...] = ()  # pruned of incidents that are over
    paused_until: float | None = None  # wall; FOREVER is until resumed
    paused_to_life: float = 0.0  # `life` until which the pause lasts whatever the wall clock says
    counter: int = 0
    life: float = 0.0  # seconds this host was watched, over all boots: time that no clock can fake
    actions: dict[str, dict[str, int]] = {}  # action -> outcome -> total
    held: dict[str, dict[str, int]] = {}  # action -> guard -> total
    reboot_expected_until: float = 0.0  # wall


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What remediation knows of the outside at this moment; nothing of it survives a restart."""

    surroundings: Surroundings = Surroundings()
    seen_at: float | None = None  # boottime
    stopped: bool | None = None  # the stop switch as the main process reads it
    stop_detail: str = NOT_READ
    lived_to: float | None = None  # boottime up to which `Remedy.life` is counted
    fleet: Fleet | None = None
    fleet_at: float | None = None  # boottime
    memory: Memory = Memory()
