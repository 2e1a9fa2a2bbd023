"""Faults of cooling, and of cards that do not let it be helped."""

from __future__ import annotations

from gpuwarden.errors import InputError
from gpuwarden.sim.card import Card, Knobs
from gpuwarden.sim.fault import Fault, Options

_NOT_SUPPORTED = 3  # source: nvml.h, NVML_ERROR_NOT_SUPPORTED
_FUNCTIONS = {
    "power": ("nvmlDeviceSetPowerManagementLimit", "nvmlDeviceSetPowerManagementLimit_v2"),
    "clock": ("nvmlDeviceSetGpuLockedClocks",),
    "fan": ("nvmlDeviceSetFanSpeed_v2",),
}


def _dust(knobs: Knobs, _: Card, options: Options) -> None:
    if not 0.05 <= float(options["airflow"]) <= 1:
        raise InputError("dust: airflow is what is left of it, from 0.05 to 1")
    knobs.airflow = float(options["airflow"])


def _refuses(knobs: Knobs, _: Card, options: Options) -> None:
    setting = str(options["setting"])
    if setting not in _FUNCTIONS:
        raise InputError(f"refuses: setting is one of {', '.join(_FUNCTIONS)}, not {setting!r}")
    knobs.codes.update(dict.fromkeys(_FUNCTIONS[setting], _NOT_SUPPORTED))


ROWS: tuple[Fault, ...] = (
    Fault(
        name="dust", what="only `airflow` of the air reaches the card", gpu="any", options={"airflow": 0.5}, card=_dust
    ),
    Fault(
        name="refuses",
        what=f"the card does not let one setting be changed ({', '.join(_FUNCTIONS)})",
        gpu="any",
        options={"setting": "power"},
        card=_refuses,
    ),
)
