"""Faults of presence: cards that answer only that they do not work, that belong to others, that sleep; drivers in two
versions; and single answers that are bad without anything being wrong."""

from __future__ import annotations

from gpuwarden.errors import InputError
from gpuwarden.sim.card import Card, Knobs
from gpuwarden.sim.fault import Fault, NodeKnobs, Options

_LOST, _MISMATCH, _OPERATING_SYSTEM = 15, 18, 17  # source: nvml.h, nvmlReturn_t
_CARD_CODES = {"power": 8, "irq": 11, "inforom": 14}
_OTHER_DRIVERS = ("vfio-pci", "nouveau")


def _card_fault(knobs: Knobs, _: Card, options: Options) -> None:
    what = str(options["what"])
    if what not in _CARD_CODES:
        raise InputError(f"card_fault: what is one of {', '.join(_CARD_CODES)}, not {what!r}")
    knobs.return_code = knobs.handle_code = _CARD_CODES[what]


def _elsewhere(knobs: Knobs, _: Card, options: Options) -> None:
    driver = str(options["driver"])
    if driver not in _OTHER_DRIVERS:
        raise InputError(f"bound_elsewhere: driver is one of {', '.join(_OTHER_DRIVERS)}, not {driver!r}")
    knobs.driver, knobs.return_code, knobs.handle_code = driver, _LOST, _LOST


def _suspended(knobs: Knobs, _: Card, __: Options) -> None:
    knobs.asleep = True


def _mismatch(knobs: NodeKnobs, options: Options) -> None:
    knobs.module_version = str(options["module"])
    knobs.init_code = _MISMATCH if options["refused"] else None


def _answer(knobs: Knobs, _: Card, options: Options) -> None:
    name = str(options["call"])
    knobs.codes = knobs.codes | {name if name.startswith("nvml") else f"nvmlDeviceGet{name}": int(options["code"])}


def _device_rules(knobs: Knobs, _: Card, __: Options) -> None:
    knobs.return_code = knobs.handle_code = _OPERATING_SYSTEM


ROWS = (
    Fault(
        name="card_fault",
        what=f"every call answers what is wrong with the card: {', '.join(_CARD_CODES)}",
        options={"what": "power"},
        card=_card_fault,
    ),
    Fault(
        name="bound_elsewhere",
        what=f"the device is taken by another driver: {', '.join(_OTHER_DRIVERS)}",
        options={"driver": "vfio-pci"},
        card=_elsewhere,
    ),
    Fault(name="suspended", what="the kernel has suspended the GPU, which nobody uses", card=_suspended),
    Fault(
        name="library_mismatch",
        what="the kernel module is of another version; with refused=1 NVML says so itself to a new session",
        gpu="none",
        options={"module": "999.99.99", "refused": 1},
        node=_mismatch,
    ),
    Fault(
        name="bad_answer",
        what="one function answers with a code (3: not supported, 10: timeout, 27: not ready), all else is well",
        options={"call": "PowerUsage", "code": 27},
        card=_answer,
    ),
    Fault(
        name="device_rules",
        what="the container's device rules no longer hold this GPU: OPERATING_SYSTEM, the card is fine",
        gpu="any",
        card=_device_rules,
    ),
)
