"""What links are known to do over time: NVLinks that were ever up, growth of their errors, slots that limit a card."""

from __future__ import annotations

from collections.abc import Mapping

from gpuwarden.model.finding import Event
from gpuwarden.model.gpu import NVLINK_ERRORS, Scalar, Value
from gpuwarden.model.observation import GpuSampled
from gpuwarden.model.severity import Severity
from gpuwarden.model.snapshot import LinkWindow, NodeState
from gpuwarden.policy.gpus import at_bdf

WINDOW_SECONDS: dict[str, float] = {
    NVLINK_ERRORS[error]: seconds
    for error, seconds in {
        "replay": 600.0,
        "recovery": 600.0,
        "recovery_failed": 600.0,
        "integrity": 600.0,
        "crc": 60.0,
        "crc_flit": 60.0,
        "crc_data": 60.0,
        "effective": 60.0,
    }.items()
}
WINDOW_SECONDS |= dict.fromkeys(("nvlink_link_tx_bytes", "nvlink_link_rx_bytes"), 60.0)
"""Over how long the growth of the counters that are judged is looked at: short where a rate counts, longer where any
growth does. Traffic by link is only shown, as a rate."""


def seen_up(before: tuple[int, ...], values: Mapping[str, Value]) -> tuple[int, ...]:
    """Return the links that were active at any time, with what a lane says now."""
    now = values.get("nvlink_up")
    if not isinstance(now, tuple):
        return before
    active = {link for link, up in enumerate(now) if up == 1}
    return before if active <= set(before) else tuple(sorted({*before, *active}))


def windows(before: dict[str, LinkWindow], values: Mapping[str, Value], at: float) -> dict[str, LinkWindow]:
    """Return the windows with what a lane says now in them."""
    for reading, period in WINDOW_SECONDS.items():
        value = values.get(reading)
        if isinstance(value, tuple):
            before = before | {reading: _grow(before.get(reading), value, at, period)}
    return before


def _grow(window: LinkWindow | None, elements: tuple[Scalar, ...], at: float, period: float) -> LinkWindow:
    """Return a window one sample on. A first sample, a fall on any link and another number of links start it anew."""
    if window is None or len(window.last) != len(elements):
        return _new(tuple(_count(element, None) for element in elements), at)
    now = tuple(_count(element, last) for element, last in zip(elements, window.last, strict=True))
    if any(old is not None and new is not None and new < old for new, old in zip(now, window.last, strict=True)):
        return _new(now, at)
    base, base_at, previous, previous_at = window.base, window.base_at, window.previous_base, window.previous_base_at
    if at - base_at >= period:
        base, base_at, previous, previous_at = now, at, base, base_at
    return LinkWindow(
        last=now, last_at=at, base=base, base_at=base_at, previous_base=previous, previous_base_at=previous_at
    )


def _new(now: tuple[float | None, ...], at: float) -> LinkWindow:
    return LinkWindow(last=now, last_at=at, base=now, base_at=at, previous_base=now, previous_base_at=at)


def _count(element: Scalar, last: float | None) -> float | None:
    return float(element) if isinstance(element, int | float) else last


def slot_limit(before: NodeState, after: NodeState, sample: GpuSampled) -> tuple[Event, ...]:
    """Return what is to be said of a card in a slot of an older generation: once, as a fact and not as a fault."""
    gpu, known = at_bdf(after, sample.bdf), at_bdf(before, sample.bdf)
    own = sample.values.get("pcie_generation_gpu_max")
    both = sample.values.get("pcie_generation_max")
    if gpu is None or known is None or own == known.static.get("pcie_generation_gpu_max"):
        return ()
    if not isinstance(own, int | float) or not isinstance(both, int | float) or own <= both:
        return ()
    event = Event(
        kind="finding",
        name="pcie_slot_limited",
        severity=Severity.INFO.value,
        gpu=gpu.index,
        uuid=gpu.identity.uuid,
        state="seen",
        time=sample.at.wall,
        boot_id=sample.at.boot_id,
        evidence={"pcie_generation_max": both, "pcie_generation_gpu_max": own},
    )
    return (event,)
