"""The ladder: a row for every kind, the vendor's advice for Xids unless there is a reason, what is stricter."""

from __future__ import annotations

import pytest

from gpuwarden.model.case import ActionKind, Treatment, Urgency
from gpuwarden.model.finding import Evidence, Incident
from gpuwarden.model.kinds import KINDS
from gpuwarden.model.severity import EventClass, Severity
from gpuwarden.model.stamp import Stamp
from gpuwarden.model.xid import bucket, xid_findings
from gpuwarden.policy.ladder import climbed, ladder, rung_of, strictness, treatment, treatment_of

NOW = Stamp("b", 1000.0, 1_790_000_000.0)
FIRST_RUNG = {
    "RESET_GPU": "reset",
    "RESTART_BM": "reboot",
    "RESTART_VM": "reboot",
    "CONTACT_SUPPORT": "hold",
    "CHECK_MECHANICALS": "hold",
    "RESTART_APP": "",
    "IGNORE": "",
    "XID_154": "",
}
OTHERWISE = {
    48: "the workflow begins with a reset where the error was not contained",
    63: "a remap takes effect at a reset: no new work, then reset",
    74: "what the workflow leads to most often, once no job is hurt by it",
    94: "contained for the job; the row that is bad is remapped at a reset",
    150: "a workflow that a person walks through",
    157: "says that a part is failing, and stays",
    161: "says that a part is failing, and stays",
}
"""Xids of the reset class that do not follow the immediate bucket, each with the reason."""


def names(found: Treatment) -> list[str]:
    return [rung.name for rung in found.rungs]


def incident(kind: str, **evidence: str | int) -> Incident:
    told: Evidence = dict(evidence)
    return Incident(
        id="b-1", kind=kind, severity=Severity.CRITICAL, uuid="GPU-0", opened=NOW, last_seen=NOW, evidence=told
    )


def test_every_kind_has_a_row() -> None:
    """No kind is forgotten: one without rungs is left to people by decision."""
    assert set(ladder()) == set(KINDS)


def test_whoever_does_something_ends_with_a_person() -> None:
    """The last rung is always hold, and it is there once."""
    for name, found in ladder().items():
        assert not found.rungs or names(found).index("hold") == len(found.rungs) - 1, name


def test_reset_class_xids_follow_the_vendors_bucket() -> None:
    """The first rung is what the catalogue's immediate action says, but for listed exceptions."""
    differing = {
        found.code
        for found in xid_findings()
        if found.code is not None
        and found.event_class is EventClass.RESET
        and bucket(found.code).immediate
        and (names(ladder()[found.kind]) or [""])[0] != FIRST_RUNG.get(bucket(found.code).immediate)
    }
    assert differing == set(OTHERWISE)


def test_kinds_of_the_application_are_left_to_it() -> None:
    """An Xid that a program brought on itself is no reason to touch the GPU."""
    for found in xid_findings():
        if found.event_class is EventClass.APPLICATION:
            assert ladder()[found.kind].rungs == (), found.kind


@pytest.mark.parametrize("kind", ["xid.xid_79", "xid.xid_95", "xid.xid_48", "xid.xid_119", "presence.gpu_lost"])
def test_what_is_dead_or_wrong_is_urgent(kind: str) -> None:
    """The workload is dead or its results are wrong: nothing is won by waiting."""
    assert ladder()[kind].urgency is Urgency.NOW


@pytest.mark.parametrize(
    "kind",
    ["xid.xid_63", "xid.xid_64", "xid.xid_94", "memory.row_remap_pending", "memory.retired_pages_pending",
     "links.pcie_width"],
)  # fmt: skip
def test_what_can_wait_waits_for_the_jobs_end(kind: str) -> None:
    """No new work, and no limit to waiting for what runs."""
    assert ladder()[kind].urgency is Urgency.JOB_END


@pytest.mark.parametrize(
    ("value", "urgency", "first"),
    [
        (1, Urgency.NOW, "reset"),
        (2, Urgency.NOW, "reboot"),
        (3, Urgency.JOB_END, "hold"),
        (4, Urgency.JOB_END, "reset"),
        (5, Urgency.JOB_END, "hold"),
        (6, Urgency.NOW, "reset"),
        (7, Urgency.NOW, "reboot"),
        (99, Urgency.NOW, "hold"),
        ("odd", Urgency.NOW, "hold"),
    ],
)
def test_the_recovery_action_is_followed_by_its_value(value: str | int, urgency: Urgency, first: str) -> None:
    """What this release does not know is not guessed at: a person decides."""
    found = treatment_of(incident("presence.recovery_action", value=value), {})
    assert (found.urgency, names(found)[0]) == (urgency, first)


@pytest.mark.parametrize(
    ("kind", "rungs", "expected", "urgency"),
    [
        ("xid.xid_79", ("hold",), ["hold"], Urgency.NOW),
        ("xid.xid_79", (), [], Urgency.NOW),
        ("xid.xid_95", ("command:bmc",), ["command:bmc", "hold"], Urgency.NOW),
        ("memory.row_remap_pending", ("reboot",), ["reboot", "hold"], Urgency.JOB_END),
        ("speed.clock_deficit", ("reset",), ["reset", "hold"], Urgency.JOB_END),
        ("presence.recovery_action", ("hold",), ["hold"], Urgency.NOW),
    ],
)
def test_an_override_takes_the_place_of_a_row(
    kind: str, rungs: tuple[str, ...], expected: list[str], urgency: Urgency
) -> None:
    """The operator's rungs, the row's urgency; for a kind that had no rungs, one that ends nobody's work."""
    found = treatment_of(incident(kind, value=2), {kind: rungs})
    assert names(found) == expected
    assert not expected or found.urgency is urgency


def test_a_rung_that_is_none_is_an_error() -> None:
    """A name nobody knows is not taken for something."""
    for name in ("restart", "command:", "Reset"):
        with pytest.raises(KeyError):
            rung_of(name)
    assert rung_of("command:pdu").action is ActionKind.COMMAND


def test_urgency_counts_before_weight() -> None:
    """From the least strict to the strictest."""
    rising = [
        Treatment(),
        treatment(Urgency.IDLE, "reboot"),
        treatment(Urgency.JOB_END, "reset"),
        treatment(Urgency.JOB_END, "reboot"),
        treatment(Urgency.JOB_END, "hold"),
        treatment(Urgency.NOW, "stop_workload"),
        treatment(Urgency.NOW, "command:x"),
        treatment(Urgency.NOW, "reset"),
        treatment(Urgency.NOW, "reboot"),
        treatment(Urgency.NOW, "hold"),
    ]
    keys = [strictness(each) for each in rising]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("made", "rung"),
    [([], 0), (["reset"], 1), (["reboot"], 2), (["reboot", "reset"], 2), (["command:other"], 0), (["hold"], 2)],
)
def test_what_was_tried_lately_is_not_begun_with(made: list[str], rung: int) -> None:
    """A recurrence begins above the highest rung that was climbed; at the top a person decides."""
    assert climbed(treatment(Urgency.NOW, "reset", "reboot"), made) == rung
