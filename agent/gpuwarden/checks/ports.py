"""InfiniBand ports: one that was up and is down, or that comes and goes. A port that never was up is not cabled."""

from __future__ import annotations

from collections.abc import Iterator

from gpuwarden.checks.rule import Graded, finding
from gpuwarden.model.finding import Evidence, Unsure, Verdict
from gpuwarden.model.severity import Severity
from gpuwarden.model.snapshot import NodeState, PortState

_DOWN = "links.ib_port_down"
_DISABLED = "Disabled"  # phys_state of a port that somebody switched off


def check(node: NodeState) -> Iterator[Verdict]:
    """Yield what is true now about the host's InfiniBand ports."""
    settings = node.settings.kinds[_DOWN]
    if not settings.enabled:
        return
    if node.ports_readable is False:
        yield Unsure(kind=_DOWN, uuid=None)
        return
    known = _named_by_incident(node)
    down = [state for name, state in node.ports.items() if not state.port.is_up and (state.seen_up or name in known)]
    flapping = [state for state in node.ports.values() if state.drops[1] >= settings.thresholds["drops"]]
    slow = [state for state in node.ports.values() if _is_slow(state)]
    bad = down or flapping or slow
    if not bad:
        return
    evidence = _evidence("down" if down else "flapping" if flapping else "slow", bad)
    switched_off = bool(down) and all(state.port.phys_state == _DISABLED for state in down)
    found = finding(_DOWN, settings, None, Graded(Severity.INFO, evidence) if switched_off else evidence)
    if found is not None:
        yield found


def _named_by_incident(node: NodeState) -> frozenset[str]:
    """Return the ports an open incident calls down: what a restarted daemon cannot have seen itself."""
    incident = node.incidents.get((_DOWN, ""))
    told = incident.evidence if incident is not None else {}
    return frozenset(str(told.get("ports", "")).split(", ")) if told.get("trouble") == "down" else frozenset()


def _is_slow(state: PortState) -> bool:
    """Return whether a port came back with fewer lanes or a lower speed than it had."""
    rate = state.port.rate_bits_per_second
    return state.port.is_up and rate is not None and rate < state.best_rate


def _evidence(trouble: str, bad: list[PortState]) -> Evidence:
    first = bad[0]
    return {
        "trouble": trouble,
        "ports": ", ".join(state.port.name for state in bad),
        "state": first.port.state,
        "phys_state": first.port.phys_state,
        "rate_bits_per_second": first.port.rate_bits_per_second,
        "best_rate_bits_per_second": first.best_rate or None,
        "drops": first.drops[1],
    }
