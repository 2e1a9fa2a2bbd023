"""What is ours on a node, as patches: one plan per effect, from the node as it is to the next write. Pure.

A plan is asked again after each write and each conflict, until it says what the effect came to: so it is safe to ask
twice, and it never writes over what it has not read (each patch carries the resource version).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from gpuwarden.actuators.backend import Answer, done, refused
from gpuwarden.actuators.kubernetes_objects import (
    ATTEMPT,
    CONDITION,
    CORDONED_BY,
    HELD_LABEL,
    HELD_REASON,
    MARK,
    OPEN_REASON,
    PAUSED,
    TAINT,
    Node,
    is_ours,
    time_of,
)
from gpuwarden.model.case import Intent

PAUSED_VALUE = "paused-for-gpuwarden"
HOLDERS = (  # DaemonSets of the GPU operator that keep NVML open; its driver and container toolkit do not
    "nvidia.com/gpu.deploy.device-plugin",
    "nvidia.com/gpu.deploy.dcgm",
    "nvidia.com/gpu.deploy.dcgm-exporter",
    "nvidia.com/gpu.deploy.gpu-feature-discovery",
    "nvidia.com/gpu.deploy.mig-manager",
    "nvidia.com/gpu.deploy.node-status-exporter",
    "nvidia.com/gpu.deploy.operator-validator",
)


class Write(NamedTuple):
    """The next write: of the node's metadata and spec, or of its status."""

    change: dict[str, Any]
    status: bool = False


class _Borrowed(msgspec.Struct, frozen=True):
    """The labels whose values were changed for a case, with the old ones."""

    case: str
    labels: dict[str, str]


class Attempted(NamedTuple):
    """How far a case had come when it was written down."""

    case: str
    rung: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.case}/{self.rung}.{self.attempt}"


def attempted(intent: Intent) -> Attempted:
    """Return rung and attempt from an intent's id, `<case>/<rung>.<attempt>[.<try>]/<action>`; 0 where it has none."""
    parts = intent.id.removeprefix(f"{intent.case}/").partition("/")[0].split(".")
    rung, attempt = (int(part) if part.isdecimal() else 0 for part in (*parts, "", "")[:2])
    return Attempted(intent.case, rung, attempt)


def isolation(node: Node, intent: Intent, wall: float, *, cordon: bool) -> Write | Answer:
    """Plan: our taint, the mark and the count of attempts, then the condition."""
    if node.case not in (None, intent.case):
        return refused(f"the taint of case {node.case} stands on {node.metadata.name}")
    notes = {MARK: intent.mark, ATTEMPT: _higher(node, attempted(intent))}
    taints = None if node.case == intent.case else [*node.spec.taints, _taint(intent)]
    cordons = cordon and not node.spec.unschedulable
    if cordons:
        notes[CORDONED_BY] = intent.case
    if taints is not None or cordons or any(node.metadata.annotations.get(key) != notes[key] for key in notes):
        spec: dict[str, Any] = {} if taints is None else {"taints": taints}
        return _change(node, {"annotations": notes}, spec | ({"unschedulable": True} if cordons else {}))
    condition = node.condition
    if condition is None or condition.status != "True" or condition.message != intent.mark:
        return _condition(node, OPEN_REASON, intent.mark, wall)
    return done(f"taint {TAINT}={intent.case} on {node.metadata.name}")


def holding(node: Node, case: str, wall: float) -> Write | Answer:
    """Plan: where our taint stays after the slot was given back, a person decides: say so, and be counted."""
    if node.case != case:
        return done("nothing of this case stands on the node")
    if node.metadata.labels.get(HELD_LABEL) != "true":
        return _change(node, {"labels": {HELD_LABEL: "true"}}, {})
    condition = node.condition
    if condition is None or condition.reason != HELD_REASON:
        mark = node.metadata.annotations.get(MARK, case)
        return _condition(node, HELD_REASON, mark, wall)
    return done("held for a person")


def release(node: Node, intent: Intent) -> Write | Answer:
    """Plan: the condition goes first, then everything else of this case at once."""
    if node.case not in (None, intent.case):
        return refused(f"the taint on {node.metadata.name} is of case {node.case}, not ours")
    marks = {key for key in (MARK, ATTEMPT) if key in node.metadata.annotations}
    mark = node.metadata.annotations.get(MARK, intent.mark)
    if node.case is None and mark != intent.mark:
        return refused(f"the mark on {node.metadata.name} is not ours: {mark}")
    if node.condition is not None:
        gone = {"conditions": [{"type": CONDITION, "$patch": "delete"}]}
        return Write({"metadata": _as_read(node), "status": gone}, status=True)
    spec: dict[str, Any] = {}
    if node.case is not None:
        spec["taints"] = [each for each in node.spec.taints if not is_ours(each)] or None
    if node.metadata.annotations.get(CORDONED_BY) == intent.case:
        marks.add(CORDONED_BY)
        if node.spec.unschedulable:
            spec["unschedulable"] = None
    labels: dict[str, str | None] = {HELD_LABEL: None} if HELD_LABEL in node.metadata.labels else {}
    borrowed = _borrowed(node)
    if borrowed is not None and borrowed.case == intent.case:
        marks.add(PAUSED)
        labels |= _old_values(node, borrowed)
    if spec or marks or labels:
        return _change(node, {"annotations": dict.fromkeys(marks), "labels": labels}, spec)
    return done("nothing of this case stands on the node")


def pause(node: Node, case: str) -> Write | Answer:
    """Plan: the operator's DaemonSets that hold GPUs are sent away by the labels that place them."""
    borrowed = _borrowed(node)
    if borrowed is not None and borrowed.case != case:
        return refused(f"the DaemonSets of {node.metadata.name} are paused for case {borrowed.case}")
    placed = {key: node.metadata.labels[key] for key in HOLDERS if node.metadata.labels.get(key) == "true"}
    if not placed:
        return done("nothing to pause")
    kept = _Borrowed(case, {**(borrowed.labels if borrowed is not None else {}), **placed})
    labels = dict.fromkeys(placed, PAUSED_VALUE)
    return _change(node, {"labels": labels, "annotations": {PAUSED: msgspec.json.encode(kept).decode()}}, {})


def resume(node: Node, case: str) -> Write | Answer:
    """Plan: the labels as they were. What somebody else has changed since is theirs."""
    borrowed = _borrowed(node)
    if borrowed is None:
        return done("nothing is paused")
    if borrowed.case != case:
        return refused(f"the DaemonSets of {node.metadata.name} are paused for case {borrowed.case}")
    return _change(node, {"labels": _old_values(node, borrowed), "annotations": {PAUSED: None}}, {})


def paused_keys(node: Node) -> frozenset[str]:
    """Return the labels that are at our value."""
    return frozenset(key for key in HOLDERS if node.metadata.labels.get(key) == PAUSED_VALUE)


def _borrowed(node: Node) -> _Borrowed | None:
    """Return what was borrowed. What cannot be read was borrowed by nobody we know: there is nothing to restore."""
    text = node.metadata.annotations.get(PAUSED)
    if text is None:
        return None
    try:
        found = msgspec.json.decode(text, type=_Borrowed)
    except msgspec.DecodeError:
        return _Borrowed("?", {})
    return _Borrowed(found.case, {key: value for key, value in found.labels.items() if key in HOLDERS})


def _old_values(node: Node, borrowed: _Borrowed) -> dict[str, str | None]:
    labels = node.metadata.labels
    return {key: old for key, old in borrowed.labels.items() if labels.get(key) == PAUSED_VALUE}


def _higher(node: Node, now: Attempted) -> str:
    """Return the count to be written: what the same case has written before stays where it is the higher."""
    case, _, count = node.metadata.annotations.get(ATTEMPT, "").partition("/")
    numbers = count.split(".")
    if case != now.case or len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        return str(now)
    return str(max(now, Attempted(case, int(numbers[0]), int(numbers[1]))))


def _taint(intent: Intent) -> dict[str, str]:
    return {"key": TAINT, "value": intent.case, "effect": "NoSchedule"}


def _condition(node: Node, reason: str, message: str, wall: float) -> Write:
    now = time_of(wall)
    condition = {
        "type": CONDITION,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    return Write({"metadata": _as_read(node), "status": {"conditions": [condition]}}, status=True)


def _change(node: Node, metadata: dict[str, Any], spec: dict[str, Any]) -> Write:
    kept = {name: value for name, value in metadata.items() if value}
    return Write({"metadata": _as_read(node) | kept, **({"spec": spec} if spec else {})})


def _as_read(node: Node) -> dict[str, Any]:
    return {"resourceVersion": node.metadata.resource_version}
