"""What InfiniBand ports are known to have been: up at any time, how fast at best, how often they dropped."""

from __future__ import annotations

from msgspec.structs import replace

from gpuwarden.model.host import IbPort
from gpuwarden.model.observation import PortsSeen
from gpuwarden.model.snapshot import NodeState, PortState

DROPS_SECONDS = 600.0
"""Over how long drops of a port are counted."""


def ports_seen(node: NodeState, seen: PortsSeen) -> NodeState:
    """Return the node after a look at its ports. A port that is not there any more is kept as what it was: absent."""
    if not seen.readable:
        return replace(node, ports_readable=False)
    now = node.now.boottime
    listed = {port.name: port for port in seen.ports}
    ports = {name: _merged(node.ports.get(name), port, now) for name, port in listed.items()}
    gone = {
        name: _merged(state, replace(state.port, state="", phys_state="absent", rate_bits_per_second=None), now)
        for name, state in node.ports.items()
        if name not in listed and state.seen_up
    }
    return replace(node, ports_readable=True, ports=ports | gone)


def _merged(before: PortState | None, port: IbPort, now: float) -> PortState:
    rate = port.rate_bits_per_second or 0.0
    if before is None:
        return PortState(port=port, seen_up=port.is_up, best_rate=rate if port.is_up else 0.0)
    began, drops = before.drops
    if drops and now - began > DROPS_SECONDS:
        began, drops = 0.0, 0
    if before.port.is_up and not port.is_up:
        began, drops = (began, drops + 1) if drops else (now, 1)
    return PortState(
        port=port,
        seen_up=before.seen_up or port.is_up,
        best_rate=max(before.best_rate, rate if port.is_up else 0.0),
        drops=(began, drops),
    )
