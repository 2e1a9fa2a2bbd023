"""The shape of a check: a kind, the readings it needs, and a test that is only ever called with numbers.

A rule cannot judge from an absent reading: NOT_SUPPORTED gives no verdict, every other absence gives Unsure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from msgspec.structs import replace

from gpuwarden.model import load
from gpuwarden.model.finding import Evidence, Finding, Unsure, Verdict
from gpuwarden.model.gpu import GpuReading, Missing, Value
from gpuwarden.model.settings import KindSettings
from gpuwarden.model.severity import Severity, worse
from gpuwarden.model.snapshot import GpuState, NodeState


class Context(NamedTuple):
    """What a test may look at beside its readings."""

    node: NodeState
    gpu: GpuState
    thresholds: dict[str, float]


class Graded(NamedTuple):
    """A finding whose severity is not the kind's default."""

    severity: Severity
    evidence: Evidence


Outcome = Evidence | Graded | None


class Rule(NamedTuple):
    """One kind judged per GPU. `test(context, *values)` gets the needed readings in order, all of them present.

    `instead` names what is taken in the place of a reading that a product does not support.
    """

    kind: str
    needs: tuple[str, ...]
    test: Callable[..., Outcome]
    instead: Mapping[str, str] = {}


def judge(rules: Iterable[Rule], node: NodeState) -> Iterator[Verdict]:
    """Yield the verdicts of per-GPU rules for every GPU of the inventory; silence means "not so"."""
    for rule in rules:
        settings = node.settings.kinds[rule.kind]
        if not settings.enabled:
            continue
        for uuid, gpu in node.gpus.items():
            verdict = _verdict(rule, settings, Context(node, gpu, settings.thresholds), uuid)
            if verdict is not None:
                yield verdict


def as_one(verdicts: Iterable[Verdict]) -> Iterator[Verdict]:
    """Yield verdicts with those of several rules about one kind and GPU as one.

    What one rule found is true whatever another cannot tell: the worst severity, and the evidence of all.
    """
    together: dict[tuple[str, str], Verdict] = {}
    for verdict in verdicts:
        key = (verdict.kind, verdict.uuid or "")
        together[key] = _both(together[key], verdict) if key in together else verdict
    yield from together.values()


def _both(one: Verdict, other: Verdict) -> Verdict:
    match one, other:
        case Finding(), Finding():
            return replace(one, severity=worse(one.severity, other.severity), evidence=one.evidence | other.evidence)
        case Unsure(), Unsure():
            return replace(one, refused=one.refused and other.refused)
        case Finding(), _:
            return one
        case _:
            return other


def _verdict(rule: Rule, settings: KindSettings, context: Context, uuid: str) -> Verdict | None:
    values = [_value(context.gpu.readings, name, rule.instead.get(name)) for name in rule.needs]
    missing = [value for value in values if isinstance(value, Missing)]
    if Missing.NOT_SUPPORTED in missing:
        return None
    if missing:
        return Unsure(kind=rule.kind, uuid=uuid, refused=all(m is Missing.NO_PERMISSION for m in missing))
    return finding(rule.kind, settings, uuid, rule.test(context, *values))


def _value(readings: GpuReading, name: str, instead: str | None) -> Value:
    value = readings.value(name)
    return readings.value(instead) if value is Missing.NOT_SUPPORTED and instead is not None else value


def finding(kind: str, settings: KindSettings, uuid: str | None, outcome: Outcome) -> Finding | None:
    """Return the finding of an outcome, with the configured severity unless the outcome grades it."""
    match outcome:
        case None:
            return None
        case Graded(severity=severity, evidence=evidence):
            return Finding(kind=kind, severity=severity, uuid=uuid, evidence=evidence)
        case _:
            return Finding(kind=kind, severity=settings.severity, uuid=uuid, evidence=outcome)


def number(value: Any) -> float | None:
    """Return a reading as a number, or None for any reason of absence: for limits a rule can do without."""
    return None if isinstance(value, Missing) or not isinstance(value, int | float) else float(value)


def under_load(context: Context) -> bool:
    """Return whether the GPU has worked long enough for a rule about work to mean anything."""
    return load.under_load(context.node, context.gpu)
