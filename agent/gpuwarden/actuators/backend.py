"""What keeps work away from this node: the Protocol of isolation back ends, and what an effect answers.

All methods run in a short-lived child of the actuator that is killed at the intent's deadline, so they may block; a
tool they call gets its own shorter deadline (`commands.run`). Each is safe to ask twice, and changes only what is ours:
what is taken back must carry `intent.mark`, what another has changed since is REFUSED and left alone.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from gpuwarden.model.case import Intent, Outcome, Surroundings


class Answer(NamedTuple):
    """What became of an effect, and a word about it for people."""

    outcome: Outcome
    detail: str = ""


def done(detail: str = "") -> Answer:
    """The effect stands, whether it was brought about now or stood already."""
    return Answer(Outcome.DONE, detail)


def refused(detail: str) -> Answer:
    """Nothing was begun, for a reason that asking again does not change."""
    return Answer(Outcome.REFUSED, detail)


def failed(detail: str) -> Answer:
    """It was begun, and is known to have had no effect."""
    return Answer(Outcome.FAILED, detail)


def unknown(detail: str) -> Answer:
    """It was begun, and may have had its effect or not."""
    return Answer(Outcome.EFFECT_UNKNOWN, detail)


class Backend(Protocol):
    """One means of isolation. Made anew in each child, from a `Site`: what must be remembered is in `Notes`."""

    def isolate(self, intent: Intent) -> Answer:
        """Keep new work away from this node, leaving `intent.mark`."""
        ...

    def release(self, intent: Intent) -> Answer:
        """Take back what `isolate` did under this mark; `intent.resume` says that this case rebooted the host."""
        ...

    def evict(self, intent: Intent) -> Answer:
        """End the scheduler's work on this node, as `[isolation] on_deadline` says."""
        ...

    def take_slot(self, intent: Intent) -> Answer:
        """Take one of the fleet's slots; REFUSED where none is free."""
        ...

    def return_slot(self, intent: Intent) -> Answer:
        """Give the slot back that `take_slot` took."""
        ...

    def look(self, around: Surroundings) -> Surroundings:
        """Return the surroundings with the fields that this back end can tell. What it cannot tell stays None."""
        ...


class Pauses(Protocol):
    """A back end whose scheduler also keeps pods on the node that hold every GPU open and are nobody's work."""

    def pause_holders(self, intent: Intent) -> Answer:
        """Send them away for this case, and wait until they are gone."""
        ...

    def resume_holders(self, intent: Intent) -> Answer:
        """Let them come back."""
        ...


class NoBackend:
    """`[isolation] backend = "none"`, and what back ends without a scheduler answer to its verbs."""

    def isolate(self, intent: Intent) -> Answer:
        """Refuse."""
        return refused(f"no isolation back end is configured for {intent.action.value}")

    def release(self, intent: Intent) -> Answer:
        """Refuse: nothing of ours stands anywhere."""
        return refused(f"no isolation back end is configured for {intent.action.value}")

    def evict(self, intent: Intent) -> Answer:
        """Refuse."""
        return refused(f"no scheduler here for {intent.action.value}")

    def take_slot(self, intent: Intent) -> Answer:
        """Refuse."""
        return refused(f"no scheduler here for {intent.action.value}")

    def return_slot(self, intent: Intent) -> Answer:
        """Refuse: none was taken."""
        return refused(f"no scheduler here for {intent.action.value}")

    def look(self, around: Surroundings) -> Surroundings:
        """Return the surroundings as they are."""
        return around
