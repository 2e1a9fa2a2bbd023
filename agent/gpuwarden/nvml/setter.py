"""The setter: a short child process that reads and sets one card's power limit, clock lock and fans.

`python -P -m gpuwarden.nvml.setter BDF`: writes the card's settings as one JSON line, then answers each SetAsk on stdin
with a line that holds NVML's return code, and ends with its stdin. Whoever started it kills it when it hangs. Root's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pynvml

from gpuwarden.model.card import CardSettings, SetAsk
from gpuwarden.model.heat import Setting
from gpuwarden.nvml.codes import SUCCESS, code_of
from gpuwarden.nvml.session import open_session

_MILLI, _MEGA, _PERCENT = 1000, 1e6, 100
_MANUAL = 1  # source: nvml.h, NVML_FAN_POLICY_MANUAL
_BROKEN_FAN_MINIMUM = 0.3  # some drivers take less than a card can do: fans that stop and start again


def main(arguments: list[str] | None = None) -> None:
    """Serve one card until stdin ends. A card that cannot be reached is a line with the code."""
    (bdf,) = sys.argv[1:] if arguments is None else arguments
    session = open_session()
    if session.code != SUCCESS:
        _say(session.code)
        return
    try:
        handle = pynvml.nvmlDeviceGetHandleByPciBusId(bdf.encode())
    except Exception as error:  # whatever a foreign library raises: its code is the answer
        _say(code_of(error))
        return
    _say(settings_of(handle))
    for line in sys.stdin.buffer:
        _say(apply(handle, msgspec.json.decode(line, type=SetAsk)))


def _say(what: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


def settings_of(handle: Any) -> CardSettings:
    """Return what can be set of a card; what it does not answer is None."""
    limits = _asked(pynvml.nvmlDeviceGetPowerManagementLimitConstraints, handle)
    fans = _asked(pynvml.nvmlDeviceGetNumFans, handle) or 0
    speeds = [_asked(pynvml.nvmlDeviceGetFanSpeed_v2, handle, fan) for fan in range(fans)]
    policies = [_asked(pynvml.nvmlDeviceGetFanControlPolicy_v2, handle, fan) for fan in range(fans)]
    fan_limits = _asked(pynvml.nvmlDeviceGetMinMaxFanSpeed, handle) if fans else None
    return CardSettings(
        celsius=_scaled(_asked(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU), 1),
        power_watts=_scaled(_asked(pynvml.nvmlDeviceGetPowerManagementLimit, handle), _MILLI),
        power_min_watts=_scaled(limits[0] if limits else None, _MILLI),
        power_max_watts=_scaled(limits[1] if limits else None, _MILLI),
        clock_max_hertz=_scaled(
            _asked(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_GRAPHICS), 1 / _MEGA
        ),
        fans=fans,
        fans_manual=any(policy == _MANUAL for policy in policies) if policies and None not in policies else None,
        fan_ratio=max((speed for speed in speeds if speed is not None), default=0) / _PERCENT if fans else None,
        fan_min_ratio=max(fan_limits[0] / _PERCENT, _BROKEN_FAN_MINIMUM) if fan_limits else _BROKEN_FAN_MINIMUM,
        fan_max_ratio=fan_limits[1] / _PERCENT if fan_limits else 1.0,
    )


def _asked(getter: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return getter(*arguments)
    except Exception:  # not answered is not known; what that means is decided by whoever asked
        return None


def _scaled(value: Any, scale: float) -> float | None:
    return None if value is None else value / scale


def apply(handle: Any, ask: SetAsk) -> int:
    """Set one setting and return NVML's code."""
    try:
        match ask.setting:
            case Setting.POWER:
                if ask.value is not None:  # a power limit has no way of the driver's own
                    pynvml.nvmlDeviceSetPowerManagementLimit(handle, round(ask.value * _MILLI))
            case Setting.CLOCK:
                if ask.value is None:
                    pynvml.nvmlDeviceResetGpuLockedClocks(handle)
                else:
                    pynvml.nvmlDeviceSetGpuLockedClocks(handle, 0, int(ask.value / _MEGA))
            case Setting.FAN:
                for fan in range(pynvml.nvmlDeviceGetNumFans(handle)):
                    if ask.value is None:
                        pynvml.nvmlDeviceSetDefaultFanSpeed_v2(handle, fan)
                    else:
                        pynvml.nvmlDeviceSetFanSpeed_v2(handle, fan, round(ask.value * _PERCENT))
    except Exception as error:  # its code is the answer
        return code_of(error)
    return SUCCESS


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # the library's own threads are not waited for
