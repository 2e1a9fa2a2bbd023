"""How many hosts may be out, counted from what the controller tells: pure."""

from __future__ import annotations

import pytest

from gpuwarden.actuators.slurm_slots import Fleet, fleet_of, limit_of
from gpuwarden.actuators.slurm_words import Reservation, SlurmNode
from gpuwarden.config.schema import Budget

NOW = 1_790_000_000.0
YEAR = 365 * 86_400.0
IDLE, DRAIN = frozenset({"IDLE"}), frozenset({"IDLE", "DRAIN"})


def node(number: int, states: frozenset[str] = IDLE, reason: str = "", extra: str = "", part: str = "p") -> SlurmNode:
    return SlurmNode(name=f"n{number}", states=states, reason=reason, extra=extra, partitions=(part,))


def slot(number: int, on: int, seconds: float = YEAR) -> Reservation:
    return Reservation(name=f"gpuwarden-slot-{number}", nodes=f"n{on}", start=NOW - 60, end=NOW - 60 + seconds)


def fleet(budget: Budget, nodes: list[SlurmNode], reservations: tuple[Reservation, ...] = ()) -> Fleet:
    found = fleet_of(budget, "n0", nodes, reservations, NOW)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("budget", "pool", "limit"),
    [
        (Budget(), 100, None),
        (Budget(fleet_max_hosts=3), 100, 3),
        (Budget(fleet_max_hosts=0), 100, 0),
        (Budget(fleet_max_ratio=0.02), 100, 2),
        (Budget(fleet_max_ratio=0.02), 30, 1),
        (Budget(fleet_max_ratio=0.02), 149, 2),
    ],
)
def test_the_limit(budget: Budget, pool: int, limit: int | None) -> None:
    """Hosts as written, or the ratio rounded down but never below one; unset is none."""
    assert limit_of(budget, pool) == limit


def test_the_pool_is_what_shares_a_partition() -> None:
    """Nodes of other partitions neither raise the limit nor count as out."""
    nodes = [node(0), node(1), *(node(n, DRAIN, "fan", part="other") for n in range(2, 300))]
    assert fleet(Budget(fleet_max_ratio=0.5), nodes) == Fleet(1, 0, frozenset(), frozenset(), 0)


def test_hosts_that_others_took_out_count_against_a_ratio() -> None:
    """They leave fewer slots; against a fixed number they do not count."""
    nodes = [node(n) for n in range(18)] + [node(18, DRAIN, "fan"), node(19, frozenset({"DOWN"}), "Not responding")]
    by_ratio = fleet(Budget(fleet_max_ratio=0.15), nodes)
    assert (by_ratio.limit, by_ratio.out_by_others, by_ratio.allowed, list(by_ratio.names)) == (3, 2, 1, [0])
    assert fleet(Budget(fleet_max_hosts=3), nodes).allowed == 3


def test_slots_in_use_and_at_rest_are_not_free() -> None:
    """A slot rests by what a node says of it, or by a reservation with an end; what is past is over."""
    resting = node(3, extra=f"gpuwarden rest=1@{NOW + 5:.0f},2@{NOW - 5:.0f}")
    nodes = [node(0), node(1), node(2), resting]
    seen = fleet(Budget(fleet_max_hosts=4), nodes, (slot(0, 1), slot(3, 2, 1800.0)))
    assert (seen.taken, seen.resting, seen.free) == (frozenset({0}), frozenset({1, 3}), 1)


def test_slots_above_a_limit_that_fell_leave_fewer_names() -> None:
    """Names are what the controller makes unique: there are never more to win than may be out."""
    seen = fleet(Budget(fleet_max_hosts=2), [node(n) for n in range(9)], (slot(7, 1),))
    assert list(seen.names) == [0] and seen.free == 1


def test_held_hosts() -> None:
    """Drained by a gpuwarden and without a slot, or marked as held: it waits for people. Others' drains are not."""
    nodes = [
        node(0),
        node(1, DRAIN, "gpuwarden a-1 xid.xid_79 gpu0"),  # has a slot: at work
        node(2, DRAIN, "gpuwarden b-1 xid.xid_79 gpu0"),  # has none
        node(3, DRAIN, "gpuwarden c-1 xid.xid_79 gpu0", "gpuwarden case=c-1 rung=1 attempt=0 held=1"),
        node(4, DRAIN, "gpuwardens are nice"),
        node(5, IDLE, "", "gpuwarden case=d-1 rung=1 attempt=0 held=1"),
    ]
    assert fleet(Budget(fleet_max_hosts=5), nodes, (slot(0, 1), slot(1, 3))).held == 2


def test_no_limit_and_no_such_node_are_no_fleet() -> None:
    """What cannot be told is not told."""
    assert fleet_of(Budget(), "n0", [node(0)], (), NOW) is None
    assert fleet_of(Budget(fleet_max_hosts=1), "n9", [node(0)], (), NOW) is None
