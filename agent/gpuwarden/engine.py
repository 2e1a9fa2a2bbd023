"""THE BRAIN: advance(state, observation) -> Step. Pure: no I/O, no clock, no log, nothing that can hang."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from gpuwarden.model.finding import Event
from gpuwarden.model.snapshot import NodeState

Command: TypeAlias = str
"""What the engine wants done. Empty until remediation exists; `runner` will consume it."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one observation: the next state, what happened, what is wanted."""

    state: NodeState
    events: tuple[Event, ...] = ()
    commands: tuple[Command, ...] = ()
