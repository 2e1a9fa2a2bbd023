"""NVLink: links that are down, and links that make errors. Boards without links give no verdict.

What a link did before is remembered (`policy/links.py`); what it should do is also said by its peers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from gpuwarden.checks.rule import finding
from gpuwarden.model.finding import Evidence, Unsure, Verdict
from gpuwarden.model.gpu import NVLINK_ERRORS, Missing
from gpuwarden.model.settings import KindSettings
from gpuwarden.model.snapshot import GpuState, LinkWindow, NodeState

_DOWN, _ERRORS = "links.nvlink_down", "links.nvlink_errors"
_LEAST_PEERS = 2  # one other GPU may be the odd one out as well as this one
_LEAST_SPAN_SECONDS = 30.0


class Limit(NamedTuple):
    """When one error counter of a link is too much: growth over the window, or with `rate` growth per second."""

    error: str
    threshold: str
    rate: bool = False


LIMITS = (
    Limit("replay", "replay_errors"),
    Limit("recovery", "recovery_errors"),
    Limit("recovery_failed", "recovery_failed_errors"),
    Limit("integrity", "integrity_errors"),
    Limit("crc", "crc_per_second", rate=True),
    Limit("crc_flit", "crc_per_second", rate=True),
    Limit("crc_data", "crc_per_second", rate=True),
    Limit("effective", "effective_per_second", rate=True),
)
"""What is judged; symbol errors are not: forward error correction is there for them."""


def check(node: NodeState) -> Iterator[Verdict]:
    """Yield what is true now about NVLinks."""
    down, errors = (node.settings.kinds[kind] for kind in (_DOWN, _ERRORS))
    if down.enabled:
        active = {uuid: _active(gpu) for uuid, gpu in node.gpus.items()}
        for gpu in node.gpus.values():
            yield from _down(node, gpu, down, active)
    if errors.enabled:
        for gpu in node.gpus.values():
            yield from _errors(gpu, errors)


def _down(
    node: NodeState, gpu: GpuState, settings: KindSettings, active_links: Mapping[str, frozenset[int]]
) -> Iterator[Verdict]:
    up = gpu.readings.nvlink_up
    if up is Missing.NOT_SUPPORTED:
        return
    if isinstance(up, Missing):
        yield Unsure(kind=_DOWN, uuid=gpu.identity.uuid, refused=up is Missing.NO_PERMISSION)
        return
    own, peers = _known(node, gpu), _peers(node, gpu, active_links)
    active = active_links[gpu.identity.uuid]
    untold = {link for link, state in enumerate(up) if isinstance(state, Missing)}
    down = sorted((own | peers) - active - untold)
    if down:
        evidence: Evidence = {
            "links": ", ".join(map(str, down)),
            "active_links": len(active),
            "expected_links": len(own | peers | active),
            "expected_by": "own history" if set(down) <= own else "peers",
        }
        found = finding(_DOWN, settings, gpu.identity.uuid, evidence)
        if found is not None:
            yield found
    elif untold & (own | peers):
        yield Unsure(kind=_DOWN, uuid=gpu.identity.uuid)


def _active(gpu: GpuState) -> frozenset[int]:
    up = gpu.readings.nvlink_up
    return frozenset(link for link, state in enumerate(up) if state == 1) if isinstance(up, tuple) else frozenset()


def _known(node: NodeState, gpu: GpuState) -> frozenset[int]:
    """Return the links that were up: seen by us, or by whoever opened the incident that is still open."""
    incident = node.incidents.get((_DOWN, gpu.identity.uuid))
    told = str(incident.evidence.get("links", "")) if incident is not None else ""
    return frozenset(gpu.links_seen_up) | {int(link) for link in told.split(", ") if link.isdecimal()}


def _peers(node: NodeState, gpu: GpuState, active_links: Mapping[str, frozenset[int]]) -> frozenset[int]:
    """Return the links that most GPUs of the same kind on this host have up: none where they do not agree.

    A card of which no link is up is held to that only in a fabric: elsewhere it may just have no bridge.
    """
    others = [
        active_links[uuid]
        for uuid, other in node.gpus.items()
        if other is not gpu and other.identity.name == gpu.identity.name and isinstance(other.readings.nvlink_up, tuple)
    ]
    in_fabric = not isinstance(gpu.readings.fabric_state, Missing)
    if not others or not (active_links[gpu.identity.uuid] or in_fabric):
        return frozenset()
    links, agreeing = Counter(others).most_common(1)[0]
    return links if 2 * agreeing > len(others) and agreeing >= _LEAST_PEERS else frozenset()


def _errors(gpu: GpuState, settings: KindSettings) -> Iterator[Verdict]:
    values = [gpu.readings.value(NVLINK_ERRORS[limit.error]) for limit in LIMITS]
    evidence: Evidence = {}
    for limit in LIMITS:
        window = gpu.link_windows.get(NVLINK_ERRORS[limit.error])
        readable = isinstance(gpu.readings.value(NVLINK_ERRORS[limit.error]), tuple)
        if window is not None and readable:
            evidence |= _beyond(limit, window, settings.thresholds[limit.threshold])
    if evidence:
        found = finding(_ERRORS, settings, gpu.identity.uuid, evidence)
        if found is not None:
            yield found
        return
    absent = [value for value in values if isinstance(value, Missing) and value is not Missing.NOT_SUPPORTED]
    if absent:
        refused = all(value is Missing.NO_PERMISSION for value in absent)
        yield Unsure(kind=_ERRORS, uuid=gpu.identity.uuid, refused=refused)


def _beyond(limit: Limit, window: LinkWindow, most: float) -> Evidence:
    """Return the evidence of the worst link where it is at or beyond its limit, else nothing."""
    if window.span_seconds < _LEAST_SPAN_SECONDS:
        return {}
    grown = max(window.grown)
    measured = grown / window.span_seconds if limit.rate else grown
    if grown <= 0 or measured < most:
        return {}
    return {
        "link": window.grown.index(grown),
        f"{limit.error}_errors": grown,
        f"{limit.error}_errors_per_second": round(grown / window.span_seconds, 3),
        "window_seconds": round(window.span_seconds),
    }
