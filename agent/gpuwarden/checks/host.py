"""The host, what holds its GPUs, and gpuwarden itself."""

from __future__ import annotations

from collections.abc import Iterator

from gpuwarden.checks.rule import Context, Graded, Outcome, Rule, finding, judge, number
from gpuwarden.model.case import LOOK_FRESH_SECONDS, SCHEDULERS
from gpuwarden.model.finding import Evidence, Finding, Unsure, Verdict
from gpuwarden.model.gpu import Missing
from gpuwarden.model.host import PERSISTENCED
from gpuwarden.model.severity import Severity
from gpuwarden.model.snapshot import GpuState, NodeState, driver_share_bytes

_ORPHAN = "host.orphan_memory"
_IDENTITY = "host.node_identity"


def _persistence_off(context: Context, mode: float) -> Outcome:
    """Return evidence where the mode is off and somebody or something says that it should be on."""
    if mode:
        return None
    unit = context.node.services.get(PERSISTENCED)
    others = [gpu for gpu in context.node.gpus.values() if gpu is not context.gpu]
    reasons = {
        "product": number(context.gpu.readings.ecc_mode_default) == 1,
        "peers": any(number(other.readings.persistence_mode) == 1 for other in others),
        "unit": unit is not None and unit.exists and not unit.runs and unit.enabled == "enabled",
    }
    expected_by = next((reason for reason, holds in reasons.items() if holds), None)
    if expected_by is None:
        return None
    return {"persistence_mode": 0, "expected_by": expected_by, "persistenced": unit.active if unit else "unknown"}


RULES = (Rule("host.persistence_off", ("persistence_mode",), _persistence_off),)


def check(node: NodeState) -> Iterator[Verdict]:
    """Yield what is true now about the host's GPUs, memory without an owner, the journal, the engine and its name."""
    yield from judge(RULES, node)
    yield from _orphans(node)
    yield from _identity(node)
    outcomes: dict[str, Outcome] = {
        "host.journal_unwritable": None if node.journal_writable else {"detail": node.journal_detail},
        "host.engine_error": {"observations_set_aside": node.engine_errors} if node.engine_errors else None,
    }
    for kind, outcome in outcomes.items():
        settings = node.settings.kinds[kind]
        found = finding(kind, settings, None, outcome) if settings.enabled else None
        if found is not None:
            yield found


def _identity(node: NodeState) -> Iterator[Verdict]:
    """Yield the verdict about the scheduler's node, where one is configured: is it this host?

    A look that is old or that could not tell proves nothing, in neither direction.
    """
    settings, remedy, around = node.settings.kinds[_IDENTITY], node.settings.remedy, node.around
    if not settings.enabled or remedy.backend not in SCHEDULERS:
        return
    told = around.surroundings.identity
    fresh = around.seen_at is not None and node.now.boottime - around.seen_at <= LOOK_FRESH_SECONDS
    if told is None or not fresh:
        yield Unsure(kind=_IDENTITY, uuid=None)
    elif not told:
        yield Finding(
            kind=_IDENTITY,
            severity=settings.severity,
            uuid=None,
            evidence={"backend": remedy.backend, "detail": around.surroundings.detail},
        )


def _orphans(node: NodeState) -> Iterator[Verdict]:
    """Yield the verdicts about memory that no process holds."""
    settings = node.settings.kinds[_ORPHAN]
    for uuid, gpu in node.gpus.items() if settings.enabled else ():
        outcome = _orphan(node, gpu)
        if isinstance(outcome, Missing):
            yield Unsure(kind=_ORPHAN, uuid=uuid, refused=outcome is Missing.NO_PERMISSION)
        elif (found := finding(_ORPHAN, settings, uuid, outcome)) is not None:
            yield found


def _orphan(node: NodeState, gpu: GpuState) -> Outcome | Missing:
    """Return the outcome, or why nobody can tell.

    A display's picture and the instances of a MIG GPU are memory that need not show in the GPU's own list.
    """
    readings, held = gpu.readings, gpu.held
    used, modes = readings.memory_used_bytes, (readings.mig_mode, readings.display_active)
    if Missing.NOT_SUPPORTED in (used, held.absent) or held.total or 1 in modes:
        return None
    if isinstance(used, Missing):
        return used
    share = driver_share_bytes(gpu, node.settings)
    if used <= share:
        return None
    unknown = [why for why in (*modes, held.absent, held.owners_absent) if isinstance(why, Missing)]
    unknown = [why for why in unknown if why is not Missing.NOT_SUPPORTED]
    if unknown:
        return unknown[0]
    if held.unowned_since is None or held.at is None or held.at <= held.unowned_since:
        return None  # the list is older than the memory, or there is only one list so far
    lasted = node.now.boottime - held.unowned_since
    evidence: Evidence = {"memory_used_bytes": used, "driver_share_bytes": share, "lasted_seconds": round(lasted, 1)}
    lasting = node.settings.kinds[_ORPHAN].thresholds["lasting_seconds"]
    return evidence if lasted >= lasting else Graded(Severity.INFO, evidence)
