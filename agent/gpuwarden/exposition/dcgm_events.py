"""The dcgm fields that are counted here rather than read: Xids and clocks event reasons.

What was counted stays when the GPU stops answering: an alert on an Xid must not lose its series to that Xid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from gpuwarden.exposition.dcgm_fields import Key
from gpuwarden.exposition.dcgm_subject import Subject
from gpuwarden.model.tally import NO_INSTANCE, TALLY_WINDOW_SECONDS
from gpuwarden.model.xid import XIDS

Labels: TypeAlias = tuple[tuple[str, str], ...]


class EventRow(NamedTuple):
    """One field, with labels of its own."""

    key: Key
    samples: Callable[[Subject], Iterable[tuple[Labels, int]]]


_CLOCK_EVENTS = {
    0x001: "gpu_idle",
    0x002: "clocks_setting",
    0x004: "power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal",
    0x040: "hw_thermal",
    0x080: "hw_power_brake",
    0x100: "display_clocks",
}
_WINDOW: Labels = (("window_size_in_ms", str(round(TALLY_WINDOW_SECONDS * 1000))),)


def _own_xids(subject: Subject) -> list[tuple[int, int, int]]:
    """Return (xid, in the window, total) of a subject, the newest Xid last. An instance shares the whole GPU's."""
    at = subject.node.now.boottime
    found: dict[int, tuple[int, int, int]] = {}
    for (instance, xid), tally in subject.gpu.xid_tallies.items():
        if instance in (subject.instance, NO_INSTANCE) or subject.instance == NO_INSTANCE:
            _, window, total = found.pop(xid, (xid, 0, 0))
            found[xid] = (xid, window + tally.within(at), total + tally.total)
    return list(found.values())


def _last_xid(subject: Subject) -> Iterable[tuple[Labels, int]]:
    xids = _own_xids(subject)
    code = xids[-1][0] if xids else 0
    row = XIDS.get(code)
    text = "No Error" if code == 0 else row.summary if row is not None else "Unknown Error"
    yield (("err_code", str(code)), ("err_msg", text)), code


def _xids_in_window(subject: Subject) -> Iterable[tuple[Labels, int]]:
    found = [((("xid", str(xid)), *_WINDOW), window) for xid, window, _ in _own_xids(subject) if window]
    return found or [(_WINDOW, 0)]


def _xids_total(subject: Subject) -> Iterable[tuple[Labels, int]]:
    return [((("xid", str(xid)),), total) for xid, _, total in _own_xids(subject)] or [((), 0)]


def _clock_events_in_window(subject: Subject) -> Iterable[tuple[Labels, int]]:
    at = subject.node.now.boottime
    seen = [(_CLOCK_EVENTS[bit], tally.within(at)) for bit, tally in sorted(subject.gpu.clock_events.items())]
    return [((("clock_event", name), *_WINDOW), count) for name, count in seen if count] or [(_WINDOW, 0)]


def _clock_events_total(subject: Subject) -> Iterable[tuple[Labels, int]]:
    edges = sorted(subject.gpu.clock_event_edges.items())
    return [((("clock_event", _CLOCK_EVENTS[bit]),), count) for bit, count in edges] or [((), 0)]


EVENT_ROWS: tuple[EventRow, ...] = (
    EventRow(230, _last_xid),
    EventRow("DCGM_EXP_XID_ERRORS_COUNT", _xids_in_window),
    EventRow("DCGM_EXP_XID_ERRORS_TOTAL", _xids_total),
    EventRow("DCGM_EXP_CLOCK_EVENTS_COUNT", _clock_events_in_window),
    EventRow("DCGM_EXP_CLOCK_EVENTS_TOTAL", _clock_events_total),
)

EVENT_ROW_BY_KEY: dict[Key, EventRow] = {row.key: row for row in EVENT_ROWS}
