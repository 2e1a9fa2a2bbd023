"""The fleet's slots as `Lease` objects: who made one holds it, and the API server lets exactly one make it.

A slot that is held has a holder (`node/case`) and no end: it stays taken however long the host is away. Given back, it
rests: the lease stays without a holder for its duration, and is then taken over by an update that only one can win.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from gpuwarden.actuators.backend import Answer, done, refused
from gpuwarden.actuators.kubernetes_api import Api, ApiError, Cause
from gpuwarden.actuators.kubernetes_objects import Lease, Node, micro_time_of
from gpuwarden.config.schema import Budget

_NAME = re.compile(r"gpuwarden-slot-([0-9]{1,6})")
_TRIES = 5
_PAUSE_SECONDS = 0.5


class Asker(NamedTuple):
    """Who wants a slot, of which fleet, and when: one node has one, whatever case it is for."""

    budget: Budget
    space: str  # the namespace
    node: str
    case: str
    wall: float

    @property
    def identity(self) -> str:
        """Return it as a lease names its holder."""
        return f"{self.node}/{self.case}"


def slots_of(leases: Iterable[Lease]) -> dict[int, Lease]:
    """Return the leases that are slots, by number."""
    named = ((_NAME.fullmatch(lease.metadata.name), lease) for lease in leases)
    return {int(match[1]): lease for match, lease in named if match}


def allowed(budget: Budget, nodes: Iterable[Node], own: str) -> int:
    """Return how many hosts may be out: a number, or a share of the pool less those that others took out of it."""
    if budget.fleet_max_hosts != "unset":
        return budget.fleet_max_hosts
    if budget.fleet_max_ratio == "unset":
        return 0
    pool = [node for node in nodes if node.has_gpus]
    others = [
        node
        for node in pool
        if (node.spec.unschedulable or not node.ready) and node.case is None and node.metadata.name != own
    ]
    return max(1, math.floor(budget.fleet_max_ratio * len(pool))) - len(others)


def reach(most: int, slots: dict[int, Lease], wall: float) -> int:
    """Return below which number a slot may be taken, so that with those taken above it no more than `most` are out."""
    limit = most
    while limit > 0:
        above = sum(1 for number, lease in slots.items() if number >= limit and not lease.free(wall))
        if limit + above <= most:
            return limit
        limit -= 1
    return 0


def free_slots(most: int, slots: dict[int, Lease], wall: float) -> int:
    """Return how many could be taken now."""
    return sum(1 for number in range(reach(most, slots, wall)) if number not in slots or slots[number].free(wall))


def take(api: Api, asker: Asker) -> Answer:
    """Take a slot, or find the one this node has already. Raises: ApiError, UNSURE where one may be taken."""
    unsure: ApiError | None = None
    for _ in range(_TRIES):
        slots = slots_of(api.leases(asker.space))
        try:
            answer = _take(api, asker, slots)
        except ApiError as error:
            if error.cause not in (Cause.UNSURE, Cause.BUSY, Cause.CONFLICT):
                raise
            unsure = error
            if not api.pause(max(error.pause_seconds, _PAUSE_SECONDS)):
                raise
            continue
        return answer
    raise unsure if unsure is not None else ApiError(Cause.CONFLICT, "the slots change all the time")


def _take(api: Api, asker: Asker, slots: dict[int, Lease]) -> Answer:
    held = next((lease for lease in slots.values() if lease.holder.startswith(f"{asker.node}/")), None)
    if held is not None:
        if held.holder != asker.identity:  # of a case that was lost with its journal: the node is out all the same
            api.patch_lease(asker.space, held.metadata.name, _hold(held, asker))
        return done(f"slot {held.metadata.name}")
    nodes = api.nodes() if asker.budget.fleet_max_hosts == "unset" else ()
    limit = reach(allowed(asker.budget, nodes, asker.node), slots, asker.wall)
    for number in range(limit):
        name, lease = f"gpuwarden-slot-{number}", slots.get(number)
        if lease is not None and not lease.free(asker.wall):
            continue
        try:
            if lease is None:
                api.create_lease(asker.space, _new(asker, name))
            else:
                api.patch_lease(asker.space, name, _hold(lease, asker))
        except ApiError as error:
            if error.cause is not Cause.CONFLICT:
                raise
            continue
        return done(f"slot {name}")
    return refused(f"none of {limit} slots is free")


def give_back(api: Api, asker: Asker) -> Answer:
    """Give back whatever slot this case holds. Raises: ApiError."""
    last: ApiError | None = None
    for _ in range(_TRIES):
        held = [lease for lease in slots_of(api.leases(asker.space)).values() if lease.holder == asker.identity]
        if not held:
            return done("no slot is held")
        try:
            for lease in held:
                _let_go(api, asker, lease)
        except ApiError as error:
            if error.cause in (Cause.DENIED, Cause.UNREACHED):
                raise
            last = error
            if not api.pause(max(error.pause_seconds, _PAUSE_SECONDS)):
                raise
    raise last if last is not None else ApiError(Cause.CONFLICT, "the slot is held again each time it is given back")


def _let_go(api: Api, asker: Asker, lease: Lease) -> None:
    """Put a slot to rest; without a rest it goes."""
    rest_seconds = asker.budget.slot_rest_seconds
    if rest_seconds < 1.0:
        api.delete_lease(asker.space, lease)
        return
    rest = {
        "holderIdentity": None,
        "renewTime": micro_time_of(asker.wall),
        "leaseDurationSeconds": math.ceil(rest_seconds),
    }
    api.patch_lease(asker.space, lease.metadata.name, {"metadata": _as_read(lease), "spec": rest})


def _new(asker: Asker, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": asker.space, "labels": {"app.kubernetes.io/managed-by": "gpuwarden"}},
        "spec": _held_by(asker),
    }


def _hold(lease: Lease, asker: Asker) -> dict[str, Any]:
    return {"metadata": _as_read(lease), "spec": {**_held_by(asker), "leaseDurationSeconds": None}}


def _held_by(asker: Asker) -> dict[str, Any]:
    return {
        "holderIdentity": asker.identity,
        "acquireTime": micro_time_of(asker.wall),
        "renewTime": micro_time_of(asker.wall),
    }


def _as_read(lease: Lease) -> dict[str, str]:
    """Return what makes a patch fail where the lease is not the one that was read."""
    return {"uid": lease.metadata.uid, "resourceVersion": lease.metadata.resource_version}
