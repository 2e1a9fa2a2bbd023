"""What a fault of the simulated node is: a row with its name, its options and what it changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol, TypeAlias

import msgspec

from gpuwarden.errors import InputError
from gpuwarden.sim import kernel_lines
from gpuwarden.sim.card import Card, Knobs

OptionValue: TypeAlias = int | float | str
Options: TypeAlias = dict[str, OptionValue]

NOT_MIG = 0xFFFFFFFF  # an event's instance ids where it is about no instance. Source: nvml.h, nvmlEventData_t


EVENT_CORRECTED, EVENT_UNCORRECTED, EVENT_XID = 0x1, 0x2, 0x8  # source: nvml.h, nvmlEventType*


@dataclasses.dataclass(slots=True)
class NodeKnobs:
    """What faults change about the node as a whole."""

    init_code: int | None = None
    module_version: str = ""  # of the loaded kernel module, where it is not the driver's
    hung: frozenset[str] = frozenset()  # C functions of the session that never answer
    ambient_celsius: float | None = None
    ambient_seconds: float = 20.0
    units: dict[str, str] = dataclasses.field(default_factory=dict)  # ActiveState by service unit, where not "active"
    ports_down: dict[str, str] = dataclasses.field(default_factory=dict)  # physical state by InfiniBand device
    throughput_away: bool = False  # the workload's own endpoint does not answer
    pids_hidden: bool = False  # the agent is in a pid namespace of its own


class Node(Protocol):
    """What a fault may do to the node beside turning knobs."""

    cards: list[Card]

    def log(self, text: str, priority: int = kernel_lines.KERN_ERR) -> None:
        """Write a kernel-log record."""

    def event(self, card: Card, kind: int, data: int, *, gi: int = NOT_MIG, ci: int = NOT_MIG) -> None:
        """Deliver an NVML event, of one MIG instance where ids are given."""

    def wall(self) -> float:
        """Return the node's Unix time."""

    def unload(self, seconds: float, version: str) -> None:
        """Take the driver away for some seconds."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `options` are names and defaults, a default's type is the option's; `lasts` is False for mere events.

    `gpu`: whether it needs a GPU ("one"), can take one or all ("any"), or is of the node ("none"). `cure`: what ends
    it: "reset" (of the GPU; a reboot does too), "reboot", or "" where neither does.
    """

    name: str
    what: str
    gpu: str = "one"
    lasts: bool = True
    cure: str = ""
    options: Options = {}
    card: Callable[[Knobs, Card, Options], None] | None = None
    node: Callable[[NodeKnobs, Options], None] | None = None
    begin: Callable[[Node, Card | None, Options], None] | None = None
    usable: Callable[[Card], str] | None = None  # why a product cannot have it, "" where it can


def ratio_of(fault: str, options: Options) -> float:
    """Return the option `ratio` of a fault. Raises: InputError where it is none."""
    ratio = float(options["ratio"])
    if not 0.0 < ratio <= 1.0:
        raise InputError(f"{fault}: ratio is above 0 and at most 1, not {ratio:g}")
    return ratio
