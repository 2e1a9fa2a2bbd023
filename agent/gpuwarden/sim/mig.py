"""The partition of a simulated card (MIG): its instances, where they lie, and what the driver says of them.

Sizes and places are those of NVIDIA's profile tables; ids are the lowest that are free, so that an instance made anew
gets the id, and the uuid, of the one it follows. Source: MIG user guide.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuwarden.errors import InputError
from gpuwarden.sim.gpm import Totals, work_of

if TYPE_CHECKING:
    from gpuwarden.sim.card import Card

_NAMESPACE = uuid.UUID("1d1c7a4e-51b6-4f0b-9d36-2f9a3f3a6c11")
_MEMORY_SLICES, _COMPUTE_SLICES = 8, 7
_MOST_UIDS = 200
_AMPERE, _HOPPER = 7, 9
_MULTIPROCESSORS = {  # by architecture: profile's compute slices -> multiprocessors
    _AMPERE: {1: 14, 2: 28, 3: 42, 4: 56, 7: 98},
    _HOPPER: {1: 16, 2: 32, 3: 60, 4: 64, 7: 132},
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Profile:
    compute: int
    memory: int
    first_gi: int  # ids of a profile begin here
    starts: tuple[int, ...]  # memory slices at which it may begin


_PROFILES = {
    1: _Profile(1, 1, 7, (0, 1, 2, 3, 4, 5, 6)),
    2: _Profile(2, 2, 3, (0, 2, 4)),
    3: _Profile(3, 4, 1, (0, 4)),
    4: _Profile(4, 4, 1, (0,)),
    7: _Profile(7, 8, 0, (0,)),
}


@dataclasses.dataclass(slots=True)
class Instance:
    """One GPU instance with one compute instance over all of it. `uid` is never used twice in a row."""

    uid: int
    gi: int
    profile: str
    compute: int
    start: int
    size: int  # memory slices
    totals: Totals = dataclasses.field(default_factory=Totals)


@dataclasses.dataclass(slots=True)
class Partition:
    """Whether a card is in MIG mode, and its instances. Both outlive a reload: whoever made them makes them again."""

    enabled: bool = False
    instances: list[Instance] = dataclasses.field(default_factory=list)
    uids: int = 0


def needs_mig(card: Card) -> str:
    """Return why a card cannot be partitioned, "" where it can."""
    return "" if card.product.mig and card.product.mig_gigabytes else "has no MIG"


def profiles(card: Card) -> dict[str, int]:
    """Return the profiles of a card by name, each with its compute slices."""
    total = card.product.mig_gigabytes
    return {
        f"{name}g.{int(total * profile.memory / _MEMORY_SLICES + 0.5)}gb": name for name, profile in _PROFILES.items()
    }


def partition(card: Card, names: Sequence[str]) -> None:
    """Cut a card into instances of these profiles, in MIG mode; without any the mode is switched off.

    Raises: InputError where the card has no MIG, a profile is unknown, or they do not fit; then nothing has changed.
    """
    if why := needs_mig(card):
        raise InputError(f"mig: {card.product.name} {why}")
    uids = card.mig.uids
    made: list[Instance] = []
    known = profiles(card)
    for name in sorted(names, key=lambda name: -known.get(name, 0)):  # the largest first: it has the fewest places
        uids = uids % _MOST_UIDS + 1
        made.append(_place(card, known, name, made, uids))
    card.mig = Partition(enabled=bool(names), instances=sorted(made, key=lambda each: each.gi), uids=uids)


def _place(card: Card, known: dict[str, int], name: str, others: Sequence[Instance], uid: int) -> Instance:
    if name not in known:
        raise InputError(f"mig: {card.product.name} has no profile {name!r}: its profiles are {', '.join(known)}")
    profile = _PROFILES[known[name]]
    taken = {at for each in others for at in range(each.start, each.start + each.size)}
    free = [at for at in profile.starts if not taken & set(range(at, at + profile.memory))]
    used = sum(each.compute for each in others)
    if not free or used + profile.compute > _COMPUTE_SLICES:
        raise InputError(f"mig: no room for {name} beside {', '.join(each.profile for each in others)}")
    ids = {each.gi for each in others}
    gi = next(number for number in range(profile.first_gi, profile.first_gi + _COMPUTE_SLICES) if number not in ids)
    return Instance(uid, gi, name, profile.compute, free[0], profile.memory)


def uuid_of(card: Card, instance: Instance) -> str:
    """Return the name of an instance, which follows from its card and ids."""
    return f"MIG-{uuid.uuid5(_NAMESPACE, f'{card.identity.uuid}/{instance.gi}/0')}"


def count(card: Card, seconds: float) -> None:
    """Add what the instances of a card do for some seconds to their totals: they share its work evenly."""
    for instance in card.mig.instances:
        instance.totals.seconds += seconds
        instance.totals.work_seconds += work_of(card) * seconds


def multiprocessors(card: Card, instance: Instance) -> int:
    """Return how many multiprocessors an instance has."""
    return _MULTIPROCESSORS[card.product.architecture][instance.compute]


def memory_share(instance: Instance) -> float:
    """Return the part of the card's memory that an instance has."""
    return instance.size / _MEMORY_SLICES
