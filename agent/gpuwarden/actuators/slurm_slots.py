"""Slots of the fleet on Slurm: reservations `gpuwarden-slot-<n>`, which the controller gives to one host each.

A name can be had once: "Duplicate reservation name" is the answer to everybody but the first. A slot that was used
rests: the host that gives it back writes until when into its node's `Extra` before it deletes the reservation, and
whoever gets the name then reads that, and lets go of it again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import NamedTuple

from msgspec.structs import replace

from gpuwarden.actuators.backend import Answer, done, failed, refused, unknown
from gpuwarden.actuators.slurm_calls import Controller as Slurm
from gpuwarden.actuators.slurm_calls import ControllerError
from gpuwarden.actuators.slurm_record import may_write, parse_record, words_of
from gpuwarden.actuators.slurm_words import SLOT_PREFIX, Reservation, SlurmNode, standing_mark
from gpuwarden.config.schema import Budget

_FOR_EVER_SECONDS = 300 * 86_400.0
"""What lasts longer than this was made without an end (Slurm makes 365 days of it): it is in use, and does not rest."""


class Fleet(NamedTuple):
    """The fleet as the controller tells it at one moment."""

    limit: int  # how many hosts may be out
    out_by_others: int  # of the pool; they count against a ratio
    taken: frozenset[int]  # slots in use
    resting: frozenset[int]
    held: int  # hosts that a gpuwarden keeps out without a slot: they wait for people

    @property
    def allowed(self) -> int:
        """Return how many slots there are now."""
        return max(0, self.limit - self.out_by_others)

    @property
    def names(self) -> range:
        """Return the slots that may be tried: as many as leave room for those taken under higher numbers."""
        above = sum(slot >= self.allowed for slot in self.taken | self.resting)
        return range(max(0, self.allowed - above))

    @property
    def free(self) -> int:
        """Return how many slots could be taken now."""
        return max(0, self.allowed - len(self.taken | self.resting))


def limit_of(budget: Budget, pool: int) -> int | None:
    """Return how many hosts of a pool may be out at once; None where no limit is configured."""
    if budget.fleet_max_hosts != "unset":
        return budget.fleet_max_hosts
    if budget.fleet_max_ratio != "unset":
        return max(1, math.floor(budget.fleet_max_ratio * pool))
    return None


def fleet_of(
    budget: Budget, name: str, nodes: Iterable[SlurmNode], reservations: Iterable[Reservation], now: float
) -> Fleet | None:
    """Return the fleet as one node sees it; None where no limit is configured or the node is not among the nodes.

    The pool is all nodes that share a partition with this one.
    """
    nodes, reservations = tuple(nodes), tuple(reservations)
    own = next((node for node in nodes if node.name == name), None)
    if own is None:
        return None
    shared = frozenset(own.partitions)
    pool = [node for node in nodes if shared & frozenset(node.partitions) or node is own]
    pool = [node for node in pool if "FUTURE" not in node.states]
    limit = limit_of(budget, len(pool))
    if limit is None:
        return None
    by_ratio = budget.fleet_max_ratio != "unset"
    slots = [(each, each.slot) for each in reservations if each.slot is not None]
    with_slot = frozenset(each.nodes for each, _ in slots if not rests(each))
    rested = {slot for node in nodes for slot, until in parse_record(node.extra).rests.items() if until > now}
    return Fleet(
        limit=limit,
        out_by_others=sum(node.out and not node.ours for node in pool) if by_ratio else 0,
        taken=frozenset(slot for each, slot in slots if not rests(each)),
        resting=frozenset(rested) | frozenset(slot for each, slot in slots if rests(each)),
        held=sum(node.ours and (parse_record(node.extra).held or node.name not in with_slot) for node in nodes),
    )


def rests(slot: Reservation) -> bool:
    """Return whether a slot's reservation was given an end: its host is done with it, and it rests on its node."""
    return slot.start is not None and slot.end is not None and slot.end - slot.start < _FOR_EVER_SECONDS


def own_slots(reservations: Iterable[Reservation], node: str) -> tuple[Reservation, ...]:
    """Return the slots that a node has."""
    return tuple(each for each in reservations if each.slot is not None and each.nodes == node)


def take(slurm: Slurm, budget: Budget, name: str) -> Answer:
    """Take a slot for a node that is proven to be this host; one that it has already is the answer."""
    try:
        reservations = slurm.reservations()
        if own := own_slots(reservations, name):
            if not any(rests(each) for each in own):
                return done(f"{own[0].name} is taken already")
            return refused(f"{own[0].name} rests on this node")
        fleet = fleet_of(budget, name, slurm.nodes(), reservations, time.time())
    except ControllerError as error:
        return refused(f"the fleet cannot be told: {error}")
    if fleet is None:
        return refused("no limit for the fleet is configured")
    if fleet.free == 0:
        return refused(_why_none(fleet))
    for slot in fleet.names:
        if slot in fleet.taken or slot in fleet.resting:
            continue
        answer = _take_one(slurm, slot, name)
        if answer is not None:
            return answer
    return refused("other hosts were first")


def _take_one(slurm: Slurm, slot: int, node: str) -> Answer | None:
    """Take one slot; None where it belongs to somebody else, or rests since the nodes were read."""
    reservation = f"{SLOT_PREFIX}{slot}"
    try:
        if not slurm.create_reservation(reservation, node):
            return None
    except ControllerError as error:
        return unknown(f"{reservation}: {error}") if error.maybe else failed(f"{reservation}: {error}")
    try:
        if not any(parse_record(each.extra).rests.get(slot, 0) > time.time() for each in slurm.nodes()):
            return done(reservation)
        slurm.delete_reservation(reservation)
    except ControllerError as error:
        return unknown(f"{reservation} was taken, and whether it rests cannot be told: {error}")
    return None


def give_back(slurm: Slurm, budget: Budget, node: SlurmNode, mark: str) -> Answer:
    """Give a node's slot back. It rests from now on; a host that keeps its mark is held from now on."""
    try:
        own = own_slots(slurm.reservations(), node.name)
    except ControllerError as error:
        return failed(str(error))
    own = tuple(each for each in own if not rests(each))
    if not own:
        return done("no slot is taken for this node")
    told = [_give_one_back(slurm, budget.slot_rest_seconds, node, each, mark) for each in own]
    return next((answer for answer in told if answer.outcome is not done().outcome), told[0])


def _give_one_back(slurm: Slurm, seconds: float, node: SlurmNode, slot: Reservation, mark: str) -> Answer:
    assert slot.slot is not None
    now = time.time()
    until = math.ceil(now + seconds)
    try:
        if may_write(node.extra):
            record = parse_record(slurm.node(node.name).extra)
            rests = {other: end for other, end in record.rests.items() if end > now} | (
                {slot.slot: until} if seconds > 0 else {}
            )
            held = node.out and standing_mark(node.reason, mark)
            slurm.update_node(node.name, f"extra={words_of(replace(record, rests=rests, held=held))}")
        elif seconds > 0:
            slurm.end_reservation(slot.name, math.ceil(seconds / 60))
            return done(f"{slot.name} rests on this node: its Extra is not ours to write into")
        slurm.delete_reservation(slot.name)
    except ControllerError as error:
        return unknown(f"{slot.name}: {error}") if error.maybe else failed(f"{slot.name}: {error}")
    return done(slot.name)


def _why_none(fleet: Fleet) -> str:
    """Return why no slot is free, in one sentence."""
    parts = [f"{len(fleet.taken)} of {fleet.limit} slots are taken"]
    parts += [f"{len(fleet.resting)} rest"] if fleet.resting else []
    parts += [f"{fleet.out_by_others} hosts were taken out by others"] if fleet.out_by_others else []
    return ", ".join(parts)
