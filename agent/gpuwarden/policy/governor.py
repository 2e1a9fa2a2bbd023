"""The heat governor: what is wanted of a card's fan, power limit and clock so that it stays at its target temperature.

Fan up first, then the power limit down in steps to the card's minimum, then the clock; back in the opposite order, in
smaller steps and more slowly. One step at a time, from where the temperature is going rather than from where it is. A
fan is only ever raised. A temperature that is unknown is not a cool one: nothing is eased, and a fan that is ours
already goes to its full speed.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from gpuwarden.model.case import ActionKind
from gpuwarden.model.finding import Event
from gpuwarden.model.gpu import Lane, Missing, Value
from gpuwarden.model.heat import Heat, HeatOrder, Setting
from gpuwarden.model.observation import GpuSampled, HeatHandsSeen
from gpuwarden.model.snapshot import GpuState, NodeState
from gpuwarden.model.step import Govern, Step
from gpuwarden.policy.gpus import at_bdf
from gpuwarden.policy.guards import mode_of

_QUICK_SECONDS, _SLOW_SECONDS = 8.0, 30.0  # what temperatures are smoothed over; a card's own lag is about a minute
_AHEAD_SECONDS = 45.0
_DOWN_SECONDS, _URGENT_SECONDS, _UP_SECONDS = 10.0, 5.0, 30.0  # between two steps
_URGENT_CELSIUS = 4.0  # below the limit
_BAND_CELSIUS = 0.6  # below the target, before anything is eased: readings are whole degrees
_TREND_CELSIUS, _OVER_CELSIUS = 2.5, 0.3  # above the target: where it is going, and where it is
_COOL_CELSIUS = 4.0  # below the target: the room has changed, so earlier tries say nothing
_MOST_HESITATION = 5  # doublings of the wait after a step back that had to be taken back
_FAN_BAND_CELSIUS = 5.0  # a step of the fan moves the temperature more than one of the power limit
_FAN_UP_RATIO, _FAN_DOWN_RATIO = 0.1, 0.04
_POWER_DOWN, _POWER_UP = 0.04, 0.02  # of the range between the card's minimum and its own limit
_CLOCK_DOWN, _CLOCK_UP = 0.05, 0.02  # of the card's highest clock
_LOWEST_CLOCK = 0.3
_FROM_SLOWDOWN_CELSIUS = 8.0  # the target of a card that names none, below its slowdown
_FROM_MARGIN_CELSIUS = 3.0
_ROOM_RATIO = 0.9  # of its own limit is what each card may draw in a hot room
_STUCK_SECONDS, _STUCK_RATIO = 180.0, 0.04  # of the card's own limit: 1.5 degrees on an RTX 4090 with its fans at full
_TELL_SECONDS = 60.0
_GAP_SECONDS = 15.0  # without a reading, smoothing starts anew


class Limits(NamedTuple):
    """Where a card is to stay, and where it must not get."""

    target_celsius: float
    limit_celsius: float


class Ranges(NamedTuple):
    """How far each setting can go; None: the card does not say, so it is not used."""

    fan: bool
    power: tuple[float, float] | None  # lowest limit, and the one it goes back to
    clock: tuple[float, float] | None  # lowest lock, and the highest clock
    clock_now: float = 0.0


def governed(node: NodeState, sample: GpuSampled) -> Step:
    """Return what a lane of readings changes about what is wanted of its GPU. Only the fast lane has temperatures."""
    gpu = at_bdf(node, sample.bdf)
    if sample.lane is not Lane.FAST or gpu is None or not node.settings.heat.governor:
        return Step(state=node)
    if node.hands is None and mode_of(node.settings.remedy, ActionKind.MITIGATE) == "enforce":
        return Step(state=node)  # what another run of ours has set is not known yet
    before = node.heat.get(gpu.identity.uuid, Heat())
    limits = limits_of(gpu, node)
    if limits is None or not gpu.lane_times.keys() >= {Lane.NORMAL, Lane.STATIC}:
        return Step(state=node)  # it gives no limit, or what it has to be set is not known yet
    celsius = _celsius(gpu)
    after = seen(before, celsius, gpu, sample.at.boottime)
    known = celsius is not None and not stuck(after, gpu, sample.at.boottime)
    after = stepped(after, known=known, limits=limits, ranges=_ranges(gpu, after), room_hot=_room_hot(node),
                    may_take=_may_take(node), now=sample.at.boottime)  # fmt: skip
    return _told(node, gpu, before, after, limits, known=known)


def limits_of(gpu: GpuState, node: NodeState) -> Limits | None:
    """Return a card's target and limit: configured, its own, or counted from its margin. None: it gives no limit."""
    readings, settings = gpu.readings, node.settings
    core, margin = _number(readings.core_celsius), _number(readings.margin_celsius)
    slowdown = settings.core_limit_celsius or _number(readings.limit_slowdown_celsius)
    own = _number(readings.limit_target_celsius)
    offset = _number(readings.margin_limit_slowdown_celsius)
    if slowdown is None and core is not None and margin is not None and offset is not None:
        slowdown = core + margin - offset
        own = core + margin - _FROM_MARGIN_CELSIUS
    if slowdown is None:
        return None
    wanted = settings.heat.target_celsius or own or slowdown - _FROM_SLOWDOWN_CELSIUS
    return Limits(min(wanted, slowdown - _URGENT_CELSIUS), slowdown)


def _celsius(gpu: GpuState) -> float | None:
    return _number(gpu.readings.core_celsius)


def _number(value: Value) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _room_hot(node: NodeState) -> bool:
    return ("thermal.room_hot", "") in node.incidents


def _may_take(node: NodeState) -> bool:
    """Return whether more may be taken from a card than it has given already. Raising a fan of ours needs no leave."""
    if mode_of(node.settings.remedy, ActionKind.MITIGATE) != "enforce":
        return True  # it is only told
    paused = node.remedy.paused_until
    return node.around.stopped is False and (paused is None or node.now.wall >= paused)


def _ranges(gpu: GpuState, heat: Heat) -> Ranges:
    readings = gpu.readings
    fans = readings.fan_speed_ratio
    has_fans = isinstance(fans, tuple) and bool(fans)
    lowest, full = _number(readings.power_limit_min_watts), heat.power_from_watts or _own_limit(gpu)
    power = (lowest, full) if lowest is not None and full is not None and lowest < full else None
    highest = _number(readings.graphics_clock_max_hertz)
    clock = (_LOWEST_CLOCK * highest, highest) if highest else None
    return Ranges(
        fan=has_fans and Setting.FAN not in heat.refused,
        power=power if Setting.POWER not in heat.refused else None,
        clock=clock if Setting.CLOCK not in heat.refused else None,
        clock_now=_number(readings.graphics_clock_hertz) or highest or 0.0,
    )


def _own_limit(gpu: GpuState) -> float | None:
    """Return the power limit in force before we set one: what somebody lowered stays lowered."""
    readings = gpu.readings
    asked = _number(readings.power_limit_requested_watts)
    found = asked if asked is not None else _number(readings.power_limit_enforced_watts)
    return found if found is not None else _number(readings.power_limit_default_watts)


# ---- what is seen


def seen(heat: Heat, celsius: float | None, gpu: GpuState, now: float) -> Heat:
    """Return what is known of a card's heat after one reading; an absent one leaves it as it was."""
    fans = gpu.readings.fan_speed_ratio
    if heat.fan_ratio is None and isinstance(fans, tuple):
        speeds = [_number(speed) for speed in fans]
        heat = replace(heat, automatic_ratio=max((speed for speed in speeds if speed is not None), default=0.0))
    if celsius is None:
        return heat
    watts = _number(gpu.readings.power_watts) or 0.0
    passed = now - heat.sampled
    if heat.quick_celsius is None or passed > _GAP_SECONDS or passed < 0:
        heat = replace(heat, quick_celsius=celsius, slow_celsius=celsius, draw_watts=watts, slow_watts=watts)
    quick, slow = heat.quick_celsius or celsius, heat.slow_celsius
    share, slow_share = min(1.0, passed / _QUICK_SECONDS), min(1.0, passed / _SLOW_SECONDS)
    heat = replace(
        heat,
        quick_celsius=quick + (celsius - quick) * share,
        slow_celsius=slow + (celsius - slow) * slow_share,
        draw_watts=heat.draw_watts + (watts - heat.draw_watts) * share,
        slow_watts=heat.slow_watts + (watts - heat.slow_watts) * slow_share,
        sampled=now,
    )
    if celsius != heat.still_celsius:
        heat = replace(heat, still_celsius=celsius, still_since=now, still_watts=heat.slow_watts)
    return heat


def stuck(heat: Heat, gpu: GpuState, now: float) -> bool:
    """Return whether a temperature has stood still to the degree for minutes while the power changed for good."""
    full = _number(gpu.readings.power_limit_default_watts)
    if full is None or heat.still_celsius is None or now - heat.still_since < _STUCK_SECONDS:
        return False
    return abs(heat.slow_watts - heat.still_watts) > _STUCK_RATIO * full


def _ahead(heat: Heat) -> float:
    """Return where the temperature is going."""
    quick = heat.quick_celsius or 0.0
    return quick + (quick - heat.slow_celsius) * _AHEAD_SECONDS / (_SLOW_SECONDS - _QUICK_SECONDS)


# ---- what is wanted


def stepped(
    heat: Heat, *, known: bool, limits: Limits, ranges: Ranges, room_hot: bool, may_take: bool, now: float
) -> Heat:
    """Return what is wanted after one reading: as before, or one setting one step on."""
    heat = _without_refused(heat)
    if not known:
        return replace(heat, fan_ratio=1.0, stepped=now) if heat.fan_ratio not in (None, 1.0) else heat
    waited, ahead, quick = now - heat.stepped, _ahead(heat), heat.quick_celsius or 0.0
    target = limits.target_celsius
    urgent = quick >= limits.limit_celsius - _URGENT_CELSIUS
    over_room = room_hot and ranges.power is not None and not _within_room(heat, ranges.power)
    too_hot = ahead > target + _TREND_CELSIUS or (quick > target + _OVER_CELSIUS and ahead > target)
    if urgent or too_hot or over_room:
        due = waited >= (_URGENT_SECONDS if urgent or _fan_left(heat, ranges) else _DOWN_SECONDS)
        changed = _down(heat, ranges, may_take, twice=urgent) if due else heat
        if changed != heat:
            hesitation = min(_MOST_HESITATION, heat.hesitation + 1) if heat.eased else heat.hesitation
            return replace(changed, stepped=now, eased=False, hesitation=hesitation)
        return heat
    cool = max(ahead, quick)
    hesitation = 0 if cool < target - _COOL_CELSIUS else heat.hesitation
    if cool < target - _BAND_CELSIUS and waited >= _UP_SECONDS * 2**hesitation:
        changed = _up(heat, ranges, limits, room_hot, cool)
        if changed != heat:
            return replace(changed, stepped=now, eased=True, hesitation=hesitation)
    return heat


def _without_refused(heat: Heat) -> Heat:
    kept = {setting: value for setting, value in heat.wanted.items() if setting not in heat.refused}
    return replace(
        heat,
        fan_ratio=kept.get(Setting.FAN),
        power_watts=kept.get(Setting.POWER),
        clock_hertz=kept.get(Setting.CLOCK),
        power_from_watts=heat.power_from_watts if Setting.POWER in kept else 0.0,
    )


def _within_room(heat: Heat, power: tuple[float, float]) -> bool:
    ceiling = max(power[0], _ROOM_RATIO * power[1])
    return heat.power_watts is not None and heat.power_watts <= ceiling


def _fan_left(heat: Heat, ranges: Ranges) -> bool:
    return ranges.fan and (heat.fan_ratio is None or heat.fan_ratio < 1.0)


def _down(heat: Heat, ranges: Ranges, may_take: bool, *, twice: bool) -> Heat:
    """Return one step against heat, of the first setting that has any left; nothing of the kind is left, nothing."""
    factor = 2 if twice else 1
    if _fan_left(heat, ranges) and (may_take or heat.fan_ratio is not None):
        base = heat.automatic_ratio if heat.fan_ratio is None else heat.fan_ratio
        return replace(heat, fan_ratio=min(1.0, max(base, heat.automatic_ratio) + factor * _FAN_UP_RATIO))
    if not may_take:
        return heat
    if ranges.power is not None and (heat.power_watts is None or heat.power_watts > ranges.power[0]):
        lowest, full = ranges.power
        now_at = min(full, heat.draw_watts or full) if heat.power_watts is None else heat.power_watts
        lower = max(lowest, max(now_at, lowest) - factor * _POWER_DOWN * (full - lowest))
        return replace(heat, power_watts=round(lower), power_from_watts=full)
    if ranges.clock is not None and (heat.clock_hertz or ranges.clock_now) > ranges.clock[0]:
        lowest, highest = ranges.clock
        now_at = min(highest, ranges.clock_now) if heat.clock_hertz is None else heat.clock_hertz
        return replace(heat, clock_hertz=min(now_at, max(lowest, now_at - factor * _CLOCK_DOWN * highest)))
    return heat


def _up(heat: Heat, ranges: Ranges, limits: Limits, room_hot: bool, celsius: float) -> Heat:
    """Return one step back, of the setting that was used last."""
    if heat.clock_hertz is not None and ranges.clock is not None:
        higher = heat.clock_hertz + _CLOCK_UP * ranges.clock[1]
        return replace(heat, clock_hertz=higher if higher < ranges.clock[1] else None)
    if heat.power_watts is not None and ranges.power is not None:
        lowest, full = ranges.power
        higher = round(heat.power_watts + max(1.0, _POWER_UP * (full - lowest)))
        if room_hot and not _within_room(replace(heat, power_watts=higher), ranges.power):
            return heat
        if higher >= full:
            return replace(heat, power_watts=None, power_from_watts=0.0)
        return replace(heat, power_watts=higher)
    if heat.fan_ratio is not None and celsius < limits.target_celsius - _FAN_BAND_CELSIUS and not room_hot:
        lower = heat.fan_ratio - _FAN_DOWN_RATIO
        return replace(heat, fan_ratio=lower if lower > heat.automatic_ratio else None)
    return heat


# ---- what is said and asked


def _told(node: NodeState, gpu: GpuState, before: Heat, after: Heat, limits: Limits, *, known: bool) -> Step:
    """Return the node with what is wanted now, a word where that changed, and in enforce mode the order.

    An order goes out as long as anything is wanted, and once more when nothing is any longer. Without a temperature
    the last one's time stands in it: such an order renews nothing.
    """
    mode = mode_of(node.settings.remedy, ActionKind.MITIGATE)
    events: tuple[Event, ...] = ()
    if after.wanted != before.wanted and _worth_telling(before, after):
        events = (_event(node, gpu, after, limits, "wanted" if mode == "enforce" else "shadow"),)
        after = replace(after, told=node.now.boottime)
    uuid = gpu.identity.uuid
    node = replace(node, heat={**node.heat, uuid: after})
    if mode != "enforce" or not (after.wanted or before.wanted):
        return Step(state=node, events=events)
    last = after.still_since if after.sampled == node.now.boottime else after.sampled
    read = node.now if known else replace(node.now, boottime=last)
    order = HeatOrder(
        uuid=uuid, bdf=gpu.identity.bdf, wanted=after.wanted, read=read, target_celsius=limits.target_celsius
    )
    return Step(state=node, events=events, commands=(Govern(order),))


def _worth_telling(before: Heat, after: Heat) -> bool:
    """Return whether a change is told: at once when a setting begins or ends, else once a minute."""
    if before.wanted.keys() != after.wanted.keys() or before.told is None:
        return True
    return after.stepped - before.told >= _TELL_SECONDS


def _event(node: NodeState, gpu: GpuState, heat: Heat, limits: Limits, state: str) -> Event:
    celsius = gpu.readings.core_celsius
    return Event(
        kind="action",
        name=ActionKind.MITIGATE.value,
        severity="info",
        gpu=gpu.index,
        uuid=gpu.identity.uuid,
        state=state,
        time=node.now.wall,
        boot_id=node.now.boot_id,
        evidence={
            "fan_ratio": None if heat.fan_ratio is None else round(heat.fan_ratio, 2),
            "power_watts": heat.power_watts,
            "clock_hertz": heat.clock_hertz,
            "core_celsius": celsius.value if isinstance(celsius, Missing) else celsius,
            "target_celsius": round(limits.target_celsius, 1),
        },
        drill=node.drill,
    )


# ---- what the hands say


def hands_seen(node: NodeState, told: HeatHandsSeen) -> NodeState:
    """Return the node with what is on loan. What whoever holds it says first is adopted: it stays set."""
    if not told.up:
        return node if node.hands is None else replace(node, hands=replace(node.hands, up=False, detail=told.detail))
    heat = dict(node.heat)
    for refusal in told.refusals:
        known = heat.get(refusal.uuid, Heat())
        if refusal.setting not in known.refused:
            heat[refusal.uuid] = replace(known, refused=(*known.refused, refusal.setting))
    if node.hands is None or not node.hands.up:
        for lease in told.leases:
            known = heat.get(lease.uuid, Heat())
            heat[lease.uuid] = _adopted(known, lease.setting, lease.value, lease.before)
    else:
        for uuid, known in heat.items():
            heat[uuid] = _let_go(known, uuid, told)
    return replace(node, hands=told, heat=heat)


def _adopted(heat: Heat, setting: Setting, value: float, before: float | None) -> Heat:
    match setting:
        case Setting.FAN:
            return replace(heat, fan_ratio=value, automatic_ratio=before or 0.0)
        case Setting.POWER:
            return replace(heat, power_watts=value, power_from_watts=before or 0.0)
        case Setting.CLOCK:
            return replace(heat, clock_hertz=value)


def _let_go(heat: Heat, uuid: str, told: HeatHandsSeen) -> Heat:
    """Return what is wanted without a fan that went back to the driver because its temperature was not heard of."""
    leased = {lease.setting for lease in told.leases if lease.uuid == uuid}
    silent = told.at.boottime - heat.sampled > _GAP_SECONDS
    if silent and heat.fan_ratio is not None and Setting.FAN not in leased:
        return replace(heat, fan_ratio=None)
    return heat
