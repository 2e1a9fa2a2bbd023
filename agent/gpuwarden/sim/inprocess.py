"""A source of NVML answers in this process: a world on virtual time, for tests and the virtual-time driver.

Nothing waits: a call that would not return raises CallHung, one that would kill its process raises CallCrashed. Both
are no Exception, so that no driver code takes them for an answer of the library.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpuwarden.sim import sheet
from gpuwarden.sim.sheet import CardSheet, NodeSheet
from gpuwarden.sim.world import Event, World


class CallHung(BaseException):
    """A call does not return now."""

    def __init__(self, slot: int | None, function: str) -> None:
        super().__init__(slot, function)
        self.slot = slot
        self.function = function


class CallCrashed(BaseException):
    """A call killed its process."""


class InProcess:
    """Answers from a world; sheets are made anew when the world has moved on."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._sheets: dict[int, tuple[int, CardSheet]] = {}

    def node(self) -> NodeSheet:
        """Return the node's sheet."""
        return sheet.node_sheet(self.world)

    def card(self, slot: int) -> CardSheet:
        """Return one card's sheet."""
        known = self._sheets.get(slot)
        if known is None or known[0] != self.world.revision:
            known = self._sheets[slot] = self.world.revision, sheet.card_sheet(self.world, slot)
        return known[1]

    def blocked(self, slot: int | None, function: str) -> None:
        """Raise CallHung: on virtual time nobody can wait."""
        raise CallHung(slot, function)

    def delayed(self, seconds: float) -> None:
        """Return at once: on virtual time a call takes none."""

    def crash(self, slot: int) -> None:
        """Raise CallCrashed, and count it."""
        self.world.crashed(slot)
        raise CallCrashed

    def set_on(self, slot: int, function: str, numbers: Sequence[int]) -> int:
        """Call a setter on a card and return its code."""
        return self.world.set_on(slot, function, numbers)

    def events(self, after: int, _: float) -> Sequence[Event]:
        """Return the events after a number, without waiting."""
        return self.world.events_after(after)
