"""Whose work an action would end, and that nobody is taken for absent because nothing is known of him."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gpuwarden.model.case import ActionKind, Case, Surroundings
from gpuwarden.model.gpu import Lane
from gpuwarden.model.snapshot import NodeState
from gpuwarden.policy.gpus import put
from gpuwarden.policy.ladder import ladder
from gpuwarden.policy.scope import peers_busy, peers_of, work_gone
from support.story import Story, bdf, uuid
from support.ward import enforcing

A = ActionKind
FREE = Surroundings(jobs=0, holders={bdf(0): 0, bdf(1): 0, bdf(2): 0}, logged_in=0)


def node_of(surroundings: Surroundings, backend: str = "slurm", linked: tuple[int, ...] = ()) -> NodeState:
    """Return a node of three GPUs, some of them with NVLinks."""
    node = Story().started(3).node
    for number in linked:
        gpu = node.gpus[uuid(number)]
        node = put(node, replace(gpu, readings=replace(gpu.readings, nvlink_up=(1, 1))))
    return replace(
        node,
        settings=replace(node.settings, remedy=enforcing(backend=backend)),
        around=replace(node.around, surroundings=surroundings),
    )


def case_of(node: NodeState, number: int | None = 0) -> Case:
    name = None if number is None else uuid(number)
    kind = "xid.xid_95"
    return Case(id="c", kind=kind, kinds=(kind,), uuid=name, opened=node.now, since=node.now, treatment=ladder()[kind])


def holders(*held: int) -> Surroundings:
    return replace(FREE, holders={bdf(number): int(number in held) for number in range(3)})


@pytest.mark.parametrize(
    ("around", "backend", "action", "gone"),
    [
        (FREE, "slurm", A.RESET, True),
        (FREE, "slurm", A.REBOOT, True),
        (FREE, "none", A.REBOOT, True),
        (holders(1), "slurm", A.RESET, True),
        (holders(1), "slurm", A.REBOOT, False),
        (holders(1), "slurm", A.COMMAND, False),
        (holders(0), "slurm", A.RESET, False),
        (replace(FREE, jobs=1), "slurm", A.RESET, False),
        (replace(FREE, jobs=1), "none", A.RESET, True),
        (replace(FREE, jobs=1, jobs_on={bdf(1): 1}), "slurm", A.RESET, True),
        (replace(FREE, jobs=1, jobs_on={bdf(0): 1}), "slurm", A.RESET, False),
        (replace(FREE, jobs=None), "slurm", A.RESET, None),
        (replace(FREE, jobs=None), "slurm", A.REBOOT, None),
        (replace(FREE, logged_in=1), "none", A.REBOOT, False),
        (replace(FREE, logged_in=1), "none", A.RESET, True),
        (replace(FREE, logged_in=None), "none", A.REBOOT, None),
        (replace(FREE, holders=None), "none", A.RESET, None),
    ],
)
def test_what_must_be_gone(around: Surroundings, backend: str, action: ActionKind, gone: bool | None) -> None:
    """A reset needs its GPU, a reboot the host; None is not gone."""
    node = node_of(around, backend)
    assert work_gone(node, case_of(node), action) is gone


@pytest.mark.parametrize(
    ("linked", "held", "busy"),
    [((), (1,), False), ((0, 1), (1,), True), ((0, 1), (2,), False), ((1, 2), (1,), False), ((0, 1), (0,), False)],
)
def test_peers_are_gpus_with_links_where_this_one_has_some(
    linked: tuple[int, ...], held: tuple[int, ...], busy: bool
) -> None:
    """A reset takes the NVLink peers along, and waits for their work as for its own."""
    node = node_of(holders(*held), linked=linked)
    case = case_of(node)
    assert peers_busy(node, case) is busy
    assert work_gone(node, case, A.RESET) is (not busy and 0 not in held)


def test_a_peer_of_which_nothing_is_known_may_be_at_work() -> None:
    """Neither busy nor idle: the guard that asks holds."""
    node = node_of(replace(FREE, holders={bdf(0): 0}), linked=(0, 1))
    assert [gpu.index for gpu in peers_of(node, node.gpus[uuid(0)])] == [1]
    assert peers_busy(node, case_of(node)) is None


def test_what_nvml_said_of_processes_before_the_drain_says_nothing() -> None:
    """Its lane is a slow one: only what was read afterwards counts."""
    story = Story().started(1)
    story.sample(0, Lane.SLOW, processes=0)
    node = replace(
        story.node,
        settings=replace(story.node.settings, remedy=enforcing(backend="none")),
        around=replace(story.node.around, surroundings=replace(FREE, holders=None)),
    )
    read_at = story.boottime
    assert work_gone(node, case_of(node), A.RESET, read_at) is True
    assert work_gone(node, case_of(node), A.RESET, read_at + 1.0) is None


def test_a_case_of_the_host_needs_all_of_it_free() -> None:
    """Where no GPU is named, every action is about all of them."""
    node = node_of(holders(2))
    assert work_gone(node, case_of(node, None), A.RESET) is False
