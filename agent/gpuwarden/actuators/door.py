"""What the actuator refuses on its own before anything is begun: a table, read by the same rules whoever asks.

The main process has guards of its own; nothing here relies on them. A test says why it refuses, "" where the way is
free. What is not known refuses. What only gives back is held by its form alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from gpuwarden.config import Config
from gpuwarden.model.case import GIVES_BACK, ActionKind, Intent
from gpuwarden.model.stamp import Stamp

_A = ActionKind
OF_ONE_GPU = frozenset({_A.RESET, _A.STOP_WORKLOAD, _A.MITIGATE})
"""What is done to one GPU, which must be here for that."""

COUNTED_BY_GPU = frozenset({_A.RESET, _A.STOP_WORKLOAD, _A.COMMAND})
_EVERY = frozenset(ActionKind)
_FORWARD = _EVERY - GIVES_BACK
_LATEST_SECONDS = 120.0  # past its deadline nobody waits for an intent any more
_LONGEST_SECONDS = 3600.0
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_FORMS: dict[str, re.Pattern[str]] = {
    "id": re.compile(r"[A-Za-z0-9._:/-]{1,200}"),
    "case": re.compile(r"[A-Za-z0-9._:-]{1,100}"),
    "uuid": re.compile(r"((GPU|MIG|PCI)-[A-Za-z0-9:.?-]{1,80})?"),
    "bdf": re.compile(r"([0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7])?"),
    "serial": re.compile(r"[A-Za-z0-9-]{0,64}"),
    "command": re.compile(rf"({_NAME})?"),
    "mark": re.compile(r"[A-Za-z0-9 ._:/-]{0,200}"),
}


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A PCI device as the actuator itself sees it. `uuid` as the driver says, "" where it does not."""

    bdf: str
    nvidia: bool
    uuid: str = ""


class Visit(NamedTuple):
    """One question at the door, and what the actuator knows itself."""

    intent: Intent
    config: Config
    now: Stamp
    stopped: bool | None
    stop_detail: str
    device: Device | None  # at the intent's address, None where there is none
    on_gpu_today: int
    reboots_today: int


class Row(NamedTuple):
    """One reason to refuse: its name, the actions it is asked about, and its test."""

    name: str
    holds: frozenset[ActionKind]
    test: Callable[[Visit], str]


def refusal(visit: Visit) -> str:
    """Return why an intent is refused, "" where it may be begun."""
    for row in DOOR:
        if visit.intent.action in row.holds and (why := row.test(visit)):
            return why
    return ""


def malformed(intent: Intent) -> str:
    """Return which field of an intent is not what it may be, "" where all are."""
    for name, form in _FORMS.items():
        if form.fullmatch(getattr(intent, name) or "") is None:
            return f"{name} is not of its form"
    numbers = (intent.deadline_seconds, intent.made.boottime, intent.made.wall)
    if not all(math.isfinite(number) for number in numbers) or not 0.0 < intent.deadline_seconds <= _LONGEST_SECONDS:
        return "a time that is none"
    return ""


def _stale(visit: Visit) -> str:
    """Refuse an intent that nobody waits for: of another boot, long past, or from the future."""
    made, now = visit.intent.made, visit.now
    if made.boot_id != now.boot_id:
        return "the intent is of another boot"
    age = now.boottime - made.boottime
    late = age > visit.intent.deadline_seconds + _LATEST_SECONDS or age < -_LATEST_SECONDS
    return f"the intent was made {age:.0f} s ago" if late else ""


def _mode(visit: Visit) -> str:
    config, action = visit.config, visit.intent.action
    name = _A.ISOLATE if action is _A.TAKE_SLOT else action
    if config.mode == "shadow" or getattr(config.actions, name.value) == "shadow":
        return f"{name.value} is in shadow mode in the actuator's configuration"
    return ""


def _stop(visit: Visit) -> str:
    return "" if visit.stopped is False else visit.stop_detail or "the stop switch cannot be read"


def _known_gpu(visit: Visit) -> str:
    """Refuse an address that is no NVIDIA GPU, or whose card is not the one that is meant."""
    intent, device = visit.intent, visit.device
    if device is not None and not device.nvidia:
        return f"{device.bdf} is no NVIDIA GPU"
    if intent.action not in OF_ONE_GPU:
        return ""
    if device is None:
        return f"no GPU at {intent.bdf or 'an address that was not given'}"
    if not device.uuid:
        return f"the driver does not say which GPU is at {device.bdf}"
    return "" if device.uuid == intent.uuid else f"{device.uuid} is at {device.bdf}, not {intent.uuid}"


def _gpu_rate(visit: Visit) -> str:
    most = visit.config.budget.per_gpu_actions_per_day
    return f"{visit.on_gpu_today} of {most} actions on this GPU in a day" if visit.on_gpu_today >= most else ""


def _host_rate(visit: Visit) -> str:
    most = visit.config.budget.per_host_reboots_per_day
    return f"{visit.reboots_today} of {most} reboots in a day" if visit.reboots_today >= most else ""


def _uptime(visit: Visit) -> str:
    least = visit.config.guards.min_uptime_before_reboot_seconds
    return f"the host is up for less than {least:.0f} s" if visit.now.boottime < least else ""


DOOR: tuple[Row, ...] = (
    Row("form", _EVERY, lambda visit: malformed(visit.intent)),
    Row("known_gpu", _EVERY, _known_gpu),
    Row("stale", _FORWARD, _stale),
    Row("mode", _FORWARD, _mode),
    Row("stop", _FORWARD, _stop),
    Row("gpu_rate", COUNTED_BY_GPU, _gpu_rate),
    Row("host_rate", frozenset({_A.REBOOT}), _host_rate),
    Row("uptime", frozenset({_A.REBOOT}), _uptime),
)
