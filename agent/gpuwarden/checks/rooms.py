"""The rooms that are judged, in the order in which their findings are settled. Adding a check is one line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gpuwarden.checks import host, links, memory, power, presence, speed, thermal
from gpuwarden.model.finding import Verdict
from gpuwarden.model.snapshot import NodeState

ROOMS: tuple[Callable[[NodeState], Iterator[Verdict]], ...] = (
    presence.check,
    thermal.check,
    power.check,
    memory.check,
    links.check,
    speed.check,
    host.check,
)


def verdicts(node: NodeState) -> Iterator[Verdict]:
    """Yield every verdict of every room about the node as it stands."""
    for room in ROOMS:
        yield from room(node)
