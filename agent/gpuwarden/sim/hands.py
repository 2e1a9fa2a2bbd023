"""The simulated node's hands: a scheduler, an actuator and jobs that end, as the engine's intents would find them.

What is answered follows the rules of the real ones: an intent is done at most once, a mark that is not ours is never
overwritten or taken away, a GPU in use is not reset. A reboot brings the node up in another boot, with its faults as a
reboot leaves them.
"""

from __future__ import annotations

from collections.abc import Callable

from gpuwarden.model.case import ActionKind, Intent, Outcome, Surroundings
from gpuwarden.sim.card import Card, Load
from gpuwarden.sim.world import World

SECONDS: dict[ActionKind, float] = {
    ActionKind.TAKE_SLOT: 0.2,
    ActionKind.ISOLATE: 0.5,
    ActionKind.EVICT: 2.0,
    ActionKind.STOP_WORKLOAD: 5.0,
    ActionKind.RESET: 8.0,
    ActionKind.REBOOT: 45.0,
    ActionKind.COMMAND: 5.0,
    ActionKind.RELEASE: 0.5,
    ActionKind.RETURN_SLOT: 0.2,
}
"""How long each effect takes on the simulated node."""

_JOB_SECONDS = 15.0  # what runs when the node is isolated ends within this


class Hands:
    """The outside of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._done: dict[str, tuple[Outcome, str]] = {}
        self.mark = ""
        self.slot = ""
        self.rebooted = False  # since anybody looked
        self._jobs_end_at: float | None = None
        self._work: dict[int, Load] = {}  # what each card goes back to when the node is released

    def ask(self, intent: Intent) -> tuple[Outcome, str]:
        """Bring an effect about, or say what came of it the first time."""
        if intent.id not in self._done:
            self._done[intent.id] = _EFFECTS[intent.action](self, intent)
        return self._done[intent.id]

    def look(self) -> Surroundings:
        """Return what an actuator would see."""
        busy = {card.identity.bdf: int(_works(card)) for card in self._world.cards}
        return Surroundings(
            actuator_up=True,
            stopped=False,
            identity=True,
            isolated=bool(self.mark),
            mark=self.mark,
            jobs=sum(busy.values()),
            jobs_on=busy,
            holders=busy,
            logged_in=0,
            held_hosts=0,
        )

    def pass_time(self) -> None:
        """End the jobs of an isolated node when their time has come."""
        if self._jobs_end_at is not None and self._world.seconds >= self._jobs_end_at:
            self._jobs_end_at = None
            self._end_work()

    def _end_work(self) -> None:
        for card in self._world.cards:
            if card.load.point != "idle":
                self._work[card.slot] = card.load
                card.load = Load("idle")

    def _card(self, intent: Intent) -> Card | None:
        return next((card for card in self._world.cards if card.identity.bdf == intent.bdf), None)

    # ---- effects

    def _take_slot(self, intent: Intent) -> tuple[Outcome, str]:
        if self.slot:
            return Outcome.REFUSED, f"{self.slot} has it"
        self.slot = intent.case
        return Outcome.DONE, "gpuwarden-slot-0"

    def _return_slot(self, intent: Intent) -> tuple[Outcome, str]:
        if self.slot != intent.case:
            return Outcome.REFUSED, "not ours"
        self.slot = ""
        return Outcome.DONE, ""

    def _isolate(self, intent: Intent) -> tuple[Outcome, str]:
        if self.mark not in ("", intent.mark):
            return Outcome.REFUSED, f"already isolated: {self.mark}"
        self.mark = intent.mark
        self._jobs_end_at = self._world.seconds + _JOB_SECONDS
        return Outcome.DONE, ""

    def _release(self, intent: Intent) -> tuple[Outcome, str]:
        if self.mark != intent.mark:
            return Outcome.REFUSED, f"not ours any more: {self.mark or 'nobody isolates it'}"
        self.mark, self._jobs_end_at = "", None
        for card in self._world.cards:
            card.load = self._work.pop(card.slot, card.load)
        return Outcome.DONE, ""

    def _evict(self, _: Intent) -> tuple[Outcome, str]:
        self._end_work()
        return Outcome.DONE, ""

    def _stop_workload(self, intent: Intent) -> tuple[Outcome, str]:
        card = self._card(intent)
        if card is None:
            return Outcome.REFUSED, "no such GPU"
        self._work[card.slot], card.load = card.load, Load("idle")
        return Outcome.DONE, ""

    def _reset(self, intent: Intent) -> tuple[Outcome, str]:
        card = self._card(intent)
        if card is None or card.knobs.gone or card.knobs.dead:
            return Outcome.REFUSED, "the GPU is not on the bus"
        if _works(card):
            return Outcome.REFUSED, "in use by another client"
        self._world.reset(card.slot)
        return Outcome.DONE, ""

    def _reboot(self, _: Intent) -> tuple[Outcome, str]:
        self._end_work()
        self._world.reboot()
        self.rebooted = True
        return Outcome.DONE, ""

    def _command(self, intent: Intent) -> tuple[Outcome, str]:
        return Outcome.FAILED, f"actions.d/{intent.command} is not on this node"


def _works(card: Card) -> bool:
    return card.load.point != "idle"


_A = ActionKind
_EFFECTS: dict[ActionKind, Callable[[Hands, Intent], tuple[Outcome, str]]] = {
    _A.TAKE_SLOT: Hands._take_slot,
    _A.RETURN_SLOT: Hands._return_slot,
    _A.ISOLATE: Hands._isolate,
    _A.RELEASE: Hands._release,
    _A.EVICT: Hands._evict,
    _A.STOP_WORKLOAD: Hands._stop_workload,
    _A.RESET: Hands._reset,
    _A.REBOOT: Hands._reboot,
    _A.COMMAND: Hands._command,
}
