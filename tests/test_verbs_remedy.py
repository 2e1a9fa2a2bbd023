"""The requests of an operator to remediation: what is told to the engine, and what is refused at once."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gpuwarden.errors import InputError
from gpuwarden.model.case import Case, Remedy, Treatment
from gpuwarden.model.observation import AnyObservation, OperatorAsked, OperatorVerb
from gpuwarden.model.snapshot import NodeState
from gpuwarden.verbs import Verbs
from support.story import Story, uuid


class Desk:
    """Verbs on a host with two GPUs and one open case."""

    def __init__(self) -> None:
        self.story = Story().started(2)
        at = self.story.at
        case = Case(
            id="c1", kind="xid.xid_95", kinds=("xid.xid_95",), uuid=uuid(0), opened=at, since=at, treatment=Treatment()
        )
        self.story.node = replace(self.story.node, remedy=Remedy(cases={"c1": case}))
        self.told: list[AnyObservation] = []
        self.verbs = Verbs(self, self.told.append, lambda: self.story.at, None)

    def node(self) -> NodeState:
        return self.story.node

    def request(self, verb: str, payload: dict[str, Any]) -> None:
        """Take a request for the log."""


@pytest.mark.parametrize(
    ("verb", "body", "wanted"),
    [
        ("hold", {"gpu": "1"}, {"verb": OperatorVerb.HOLD, "uuid": uuid(1)}),
        ("release", {"gpu": "host"}, {"verb": OperatorVerb.RELEASE, "uuid": ""}),
        ("pause", {"seconds": 60.0}, {"verb": OperatorVerb.PAUSE, "until": 1_790_000_000.0 + 1001.0 + 60.0}),
        ("resume", {}, {"verb": OperatorVerb.RESUME}),
        ("approve", {"case": "c1"}, {"verb": OperatorVerb.APPROVE, "case": "c1"}),
        ("cancel", {"case": "c1", "why": "no", "by": "ann"}, {"verb": OperatorVerb.CANCEL, "why": "no", "by": "ann"}),
    ],
)
async def test_a_request_becomes_one_observation(verb: str, body: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Who, what and until when; the engine decides what it changes."""
    desk = Desk()
    await desk.verbs.table[verb](body)
    (told,) = desk.told
    assert isinstance(told, OperatorAsked)
    assert {name: getattr(told, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("verb", "body"),
    [("hold", {"gpu": "7"}), ("approve", {"case": "c9"}), ("cancel", {}), ("pause", {"seconds": "long"})],
)
async def test_what_makes_no_sense_is_refused_at_once(verb: str, body: dict[str, Any]) -> None:
    """An unknown GPU or case, a missing or wrong field: nothing is told."""
    desk = Desk()
    with pytest.raises(InputError):
        await desk.verbs.table[verb](body)
    assert desk.told == []
