"""What one observation leads to: the next state, the history it makes, and what is wanted of the edges."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from gpuwarden.model.case import Intent
from gpuwarden.model.finding import Event
from gpuwarden.model.heat import HeatOrder
from gpuwarden.model.snapshot import NodeState


class QuietGpu(msgspec.Struct, frozen=True):
    """Probe this GPU once, then leave its driver calls alone for the quiet period."""

    bdf: str


class ReopenNvml(msgspec.Struct, frozen=True):
    """Start over with a new NVML worker; `reason` is a label of `gpuwarden_nvml_worker_restarts_total`."""

    reason: str


class Do(msgspec.Struct, frozen=True):
    """Bring an effect about, once what led to it is on the disk; its outcome comes back as `ActionEnded`."""

    intent: Intent


class Govern(msgspec.Struct, frozen=True):
    """Have a GPU's settings as they are wanted, and its leases renewed. Needs no disk, and waits for none."""

    order: HeatOrder


Command: TypeAlias = QuietGpu | ReopenNvml | Do | Govern


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one observation. Events and commands are in the order in which they came about."""

    state: NodeState
    events: tuple[Event, ...] = ()
    commands: tuple[Command, ...] = ()

    def then(self, later: Step) -> Step:
        """Return this outcome followed by a later one, whose state counts."""
        return Step(state=later.state, events=(*self.events, *later.events), commands=(*self.commands, *later.commands))
