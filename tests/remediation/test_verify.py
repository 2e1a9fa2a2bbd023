"""The proof table: each row true, false, and not to be seen; what a card does not have cannot fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from gpuwarden.model.case import ActionKind, Case
from gpuwarden.model.finding import Incident
from gpuwarden.model.gpu import Lane, Missing
from gpuwarden.model.severity import Severity
from gpuwarden.model.snapshot import GpuState, NodeState, Presence
from gpuwarden.model.stamp import Stamp
from gpuwarden.policy.gpus import put
from gpuwarden.policy.ladder import ladder
from gpuwarden.remediation.verify import PROOFS, unproven
from support.story import BOOT, Story, uuid

A = ActionKind
ACTED = 900.0
Change = Callable[[NodeState], NodeState]
READ = ("recovery_action", "row_remap_pending", "retired_pages_pending", "ecc_uncorrected_volatile", "processes")


def well() -> tuple[NodeState, Case]:
    """Return a node on which everything is proven, and the case it is proven for."""
    story = Story().started(2)
    for number in (0, 1):
        story.sample(number, Lane.SLOW, **dict.fromkeys(READ, 0))
    node = story.node
    kind = "xid.xid_95"
    acted = Stamp(BOOT, ACTED, node.now.wall - 100.0)
    case = Case(
        id="c", kind=kind, kinds=(kind,), uuid=uuid(0), serial="S0", opened=acted, since=acted, begun=acted,
        acted=acted, treatment=ladder()[kind], acts=1,
    )  # fmt: skip
    return node, case


def gpu(**changes: Any) -> Change:
    def change(node: NodeState) -> NodeState:
        return put(node, replace(node.gpus[uuid(0)], **changes))

    return change


def reading(**values: Any) -> Change:
    def change(node: NodeState) -> NodeState:
        one: GpuState = node.gpus[uuid(0)]
        return put(node, replace(one, readings=replace(one.readings, **values)))

    return change


def incident(kind: str, at: float, *, latched: bool = False, drill: bool = False) -> Change:
    def change(node: NodeState) -> NodeState:
        when = Stamp(BOOT, at, node.now.wall)
        found = Incident(
            id="i", kind=kind, severity=Severity.CRITICAL, uuid=uuid(0), opened=when, last_seen=when, latched=latched,
            drill=drill,
        )  # fmt: skip
        return replace(node, incidents={(kind, uuid(0)): found})

    return change


def old(lane: Lane) -> Change:
    return lambda node: gpu(lane_times=node.gpus[uuid(0)].lane_times | {lane: ACTED - 1.0})(node)


ROWS: list[tuple[str, ActionKind | None, Change, bool | None]] = [
    ("host_rebooted", A.REBOOT, lambda node: node, False),
    ("session_reopened", A.RESET, lambda n: replace(n, nvml=replace(n.nvml, session_at=ACTED - 1)), None),
    ("gpu_answers", None, gpu(presence=Presence.LOST), False),
    ("gpu_answers", None, gpu(presence=Presence.BLOCKED), None),
    ("gpu_answers", None, gpu(presence=Presence.ASLEEP), None),
    ("gpu_answers", None, lambda n: gpu(identity=replace(n.gpus[uuid(0)].identity, serial="other"))(n), False),
    ("gpu_answers", None, old(Lane.FAST), None),
    ("all_gpus_back", A.REBOOT, lambda n: put(n, replace(n.gpus[uuid(1)], presence=Presence.MISSING)), None),
    ("nobody_on_gpu", A.STOP_WORKLOAD, reading(processes=1), False),
    ("nobody_on_gpu", A.STOP_WORKLOAD, reading(processes=Missing.NO_PERMISSION), None),
    ("no_recovery_asked", None, reading(recovery_action=1), False),
    ("no_recovery_asked", None, reading(recovery_action=Missing.TIMED_OUT), None),
    ("no_remap_pending", A.RESET, reading(row_remap_pending=1), False),
    ("no_remap_pending", A.RESET, old(Lane.SLOW), None),
    ("no_retirement_pending", A.RESET, reading(retired_pages_pending=1), False),
    ("no_uncorrected_errors", A.RESET, reading(ecc_uncorrected_volatile=2), False),
    ("incidents_over", None, incident("xid.xid_95", ACTED + 1, latched=True), False),
    ("incidents_over", None, incident("xid.xid_95", ACTED - 1), False),
    ("incidents_over", None, lambda n: replace(n, unsure=frozenset({("xid.xid_95", uuid(0))})), None),
    ("nothing_worse", None, incident("thermal.core_over_limit", ACTED + 1), False),
]


@pytest.mark.parametrize(("name", "action", "change", "answer"), ROWS, ids=[f"{r[0]}-{n}" for n, r in enumerate(ROWS)])
def test_a_row_that_does_not_hold(name: str, action: ActionKind | None, change: Change, answer: bool | None) -> None:
    """What is refuted says False; what cannot be seen now, or was read before the action, says None. Neither proves."""
    node, case = well()
    assert (name, answer) in unproven(change(node), case, action)


def test_every_row_is_tested() -> None:
    """No proof without a row here."""
    assert {proof.name for proof in PROOFS} == {row[0] for row in ROWS}


@pytest.mark.parametrize("action", [None, A.RESET, A.STOP_WORKLOAD, A.COMMAND])
@pytest.mark.parametrize(
    "change",
    [
        lambda node: node,
        reading(**dict.fromkeys(READ[:4], Missing.NOT_SUPPORTED)),
        incident("xid.xid_95", ACTED - 1, latched=True),
        incident("xid.xid_95", ACTED + 1, latched=True, drill=True),
        incident("thermal.core_over_limit", ACTED - 1),
        lambda node: put(node, replace(node.gpus[uuid(1)], presence=Presence.ASLEEP)),
    ],
    ids=["well", "a-geforce", "latched-before", "a-drill", "hot-before", "another-sleeps"],
)
def test_what_is_well_is_proven(action: ActionKind | None, change: Change) -> None:
    """Absent readings, what latched before the action, drills and what was there before stand in nobody's way."""
    node, case = well()
    assert unproven(change(node), case, action) == ()


def test_after_a_reboot_all_is_read_anew() -> None:
    """In another boot a reboot is proven by that boot; times of the old one say nothing against it."""
    node, case = well()
    case = replace(case, begun=Stamp("earlier", 9e6, 0.0), acted=Stamp("earlier", 9e6, 0.0))
    assert unproven(node, case, A.REBOOT) == ()
