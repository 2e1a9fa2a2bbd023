"""What the simulated driver would answer now: one sheet for the node, one per card, with every answer in it.

An answer's key is its C function, with the function's input arguments behind it (`nvmlDeviceGetClockInfo:1`), or
`FI:<id>` and `FI:<id>:<scope>` for field values. A key that is not there is NOT_SUPPORTED. Units are the driver's.
"""

from __future__ import annotations

import msgspec

from gpuwarden.sim import card as physics
from gpuwarden.sim import mig_sheet
from gpuwarden.sim.answers import Answers
from gpuwarden.sim.card import Card
from gpuwarden.sim.fault import EVENT_CORRECTED, EVENT_UNCORRECTED, EVENT_XID
from gpuwarden.sim.gpm import GpmSheet, has_gpm, sheet_of
from gpuwarden.sim.mig_sheet import InstanceSheet
from gpuwarden.sim.setters import FAN_MAX_PERCENT, FAN_MIN_PERCENT
from gpuwarden.sim.sheet_links import LINK_PARTS
from gpuwarden.sim.sheet_memory import ecc, rows, sram
from gpuwarden.sim.work import processes_of, used_bytes
from gpuwarden.sim.world import World

_D = "nvmlDeviceGet"
_DRIVER_NOT_LOADED = 9
_SAMPLING_USEC = 167000
_TURING = 6
_CUDA = {590: 13010, 595: 13020, 610: 13030}
_TESLA, _GEFORCE, _NVIDIA = 2, 5, 14  # nvmlBrandType_t


class NodeSheet(msgspec.Struct, frozen=True, array_like=True):
    """What the library knows of the node. `slots` is in NVML index order; `uuids` and `bdfs` lie beside it.

    `session` is 0 while no driver is loaded. `last_event` is the number of the last NVML event.
    """

    session: int
    init_code: int
    hung: list[str]
    driver: str
    cuda: int
    slots: list[int]
    uuids: list[str]
    bdfs: list[str]
    last_event: int


class CardSheet(msgspec.Struct, frozen=True, array_like=True):
    """What the driver says of one card. In `hung`, `crash` and `delayed` an empty list means every function."""

    session: int
    code: int
    handle_code: int
    codes: dict[str, int]
    hung: list[str] | None
    crash: list[str] | None
    delayed: list[str]
    delay_seconds: float
    answers: Answers
    gpm: GpmSheet | None = None
    mig: bool = False
    instances: list[InstanceSheet] = []


def node_sheet(world: World) -> NodeSheet:
    """Return the node's sheet as of now."""
    listed = world.listed()
    loaded = world.driver_loaded
    code = world.node_knobs.init_code
    return NodeSheet(
        session=world.session if loaded else 0,
        init_code=_DRIVER_NOT_LOADED if not loaded else code or 0,
        hung=sorted(world.node_knobs.hung),
        driver=world.driver_version,
        cuda=_CUDA.get(int(world.driver_version.partition(".")[0]), 13000),
        slots=[card.slot for card in listed],
        uuids=[card.identity.uuid for card in listed],
        bdfs=[card.identity.bdf for card in listed],
        last_event=world.last_event,
    )


def card_sheet(world: World, slot: int) -> CardSheet:
    """Return one card's sheet as of now."""
    card = world.cards[slot]
    knobs = card.knobs
    return CardSheet(
        session=world.session if world.driver_loaded else 0,
        code=knobs.return_code or 0,
        handle_code=knobs.handle_code or 0,
        codes=knobs.codes,
        hung=None if knobs.hung is None else sorted(knobs.hung),
        crash=None if knobs.crash is None else sorted(knobs.crash),
        delayed=sorted(knobs.delayed),
        delay_seconds=knobs.delay_seconds,
        answers=answers(card),
        gpm=sheet_of(card) if has_gpm(card) else None,
        mig=card.mig.enabled,
        instances=mig_sheet.sheets(card),
    )


def answers(card: Card) -> Answers:
    """Return everything the driver answers for a card that answers at all."""
    found: Answers = {}
    for part in (_identity, _heat, _fans, _power, _clocks, _work, _memory, ecc, sram, rows, _modes, *LINK_PARTS):
        part(card, found)
    mig_sheet.mark(card, found)
    for reading, raw in card.knobs.implausible.items():
        _nonsense(found, reading, raw)
    return found


def _identity(card: Card, found: Answers) -> None:
    product, identity = card.product, card.identity
    domain, bus, device = (int(part, 16) for part in identity.bdf.partition(".")[0].split(":"))
    found[_D + "UUID"] = identity.uuid
    found[_D + "Name"] = product.name
    found[_D + "VbiosVersion"] = product.vbios
    found[_D + "MinorNumber"] = identity.minor
    found[_D + "Index"] = identity.minor
    found[_D + "Architecture"] = product.architecture
    found[_D + "CudaComputeCapability"] = list(product.compute_capability)
    geforce = "GeForce" in product.name
    found[_D + "Brand"] = _GEFORCE if geforce else _TESLA if product.name.startswith("Tesla") else _NVIDIA
    for number, version in enumerate((product.inforom_oem, product.inforom_ecc)):
        if version:
            found[f"{_D}InforomVersion:{number}"] = version
    if identity.serial:
        found[_D + "Serial"] = identity.serial
    if product.board_part:
        found[_D + "BoardPartNumber"] = product.board_part
    found[_D + "PciInfo_v3"] = {
        "domain": domain,
        "bus": bus,
        "device": device,
        "pciDeviceId": product.pci_device_id << 16 | 0x10DE,
        "pciSubSystemId": product.pci_subsystem_id,
        "busId": f"{domain:08X}:{bus:02X}:{device:02X}.0",
        "busIdLegacy": f"{domain:04X}:{bus:02X}:{device:02X}.0",
    }


def _heat(card: Card, found: Answers) -> None:
    core, limits = round(card.core_celsius), card.product.thresholds_celsius
    found[_D + "Temperature:0"] = core
    found[_D + "TemperatureV:0"] = {"temperature": core}
    if card.product.points["idle"].memory_celsius is not None:
        found["FI:82"] = round(card.memory_celsius)
    if card.product.threshold_style == "margin":
        found[_D + "MarginTemperature"] = {"marginTemperature": round(limits.max_operating - card.core_celsius)}
        found["FI:193"] = round(limits.max_operating - limits.shutdown)
        found["FI:194"] = round(limits.max_operating - limits.slowdown)
        found["FI:195"] = 0
        found["FI:196"] = 0
        return
    by_number = {
        0: limits.shutdown,
        1: limits.slowdown,
        2: limits.memory_max,
        3: limits.max_operating,
        5: limits.target,
    }
    for number, limit in by_number.items():
        if limit is not None:
            found[f"{_D}TemperatureThreshold:{number}"] = round(limit)


def _fans(card: Card, found: Answers) -> None:
    if not card.product.fans:
        return
    found[_D + "NumFans"] = card.product.fans
    for fan, ratio in enumerate(card.fans):
        found[f"{_D}FanSpeed_v2:{fan}"] = found[f"{_D}TargetFanSpeed:{fan}"] = round(100 * ratio)
        found[f"{_D}FanControlPolicy_v2:{fan}"] = int(fan in card.manual_fans)
        turning = 0.0 if fan in card.knobs.fans_stopped else ratio
        found[f"{_D}FanSpeedRPM:{fan}"] = {"speed": round(turning * card.product.fan_rpm_max)}
    found[_D + "FanSpeed"] = round(100 * card.fans[0])
    found[_D + "MinMaxFanSpeed"] = [FAN_MIN_PERCENT, FAN_MAX_PERCENT]


def _power(card: Card, found: Answers) -> None:
    limits = card.product.power_limit_watts
    draw = round(1000 * card.power_watts)
    limit = round(1000 * card.limit_watts)
    found[_D + "PowerUsage"] = draw
    found["FI:186"] = draw
    if card.product.power_average:
        found["FI:185"] = draw
    found[_D + "EnforcedPowerLimit"] = limit
    found[_D + "PowerManagementLimit"] = limit
    found[_D + "PowerManagementDefaultLimit"] = round(1000 * limits.default)
    found[_D + "PowerManagementLimitConstraints"] = [round(1000 * limits.min), round(1000 * limits.max)]
    energy = round(1000 * card.counters.energy_joules)
    found[_D + "TotalEnergyConsumption"] = energy
    found["FI:83"] = energy


def _clocks(card: Card, found: Answers) -> None:
    product, point = card.product, card.point
    now = (card.clock_hertz, card.clock_hertz, card.memory_clock_hertz, point.video_clock_hertz)
    highest = (
        product.graphics_clock_max_hertz,
        product.graphics_clock_max_hertz,
        product.memory_clock_max_hertz,
        product.video_clock_max_hertz,
    )
    for domain in range(4):
        found[f"{_D}ClockInfo:{domain}"] = round(now[domain] / 1e6)
        found[f"{_D}MaxClockInfo:{domain}"] = round(highest[domain] / 1e6)
    if product.customer_boost_hertz is not None:
        found[_D + "MaxCustomerBoostClock:0"] = round(product.customer_boost_hertz / 1e6)
    found[_D + "PerformanceState"] = card.performance_state
    found[_D + "CurrentClocksEventReasons"] = card.reasons
    found[_D + "CurrentClocksThrottleReasons"] = card.reasons
    for field, bit in ((74, physics.SW_POWER_CAP), (76, 0x10), (269, physics.SW_THERMAL), (270, physics.HW_THERMAL)):
        found[f"FI:{field}"] = round(1e9 * card.counters.reason_seconds.get(bit, 0.0))
    if product.ecc == "on":  # the older counters by limit: seen on data-centre boards
        found["FI:75"] = found["FI:269"]
        found.update({"FI:77": 0, "FI:78": 0, "FI:79": 0})
    found["FI:271"] = round(1e9 * card.counters.reason_seconds.get(physics.POWER_BRAKE, 0.0))


def _work(card: Card, found: Answers) -> None:
    found[_D + "UtilizationRates"] = {
        "gpu": round(100 * card.gpu_utilization),
        "memory": round(100 * card.memory_utilization),
    }
    found[_D + "EncoderUtilization"] = [round(100 * card.share("encoder_utilization")), _SAMPLING_USEC]
    found[_D + "DecoderUtilization"] = [0, _SAMPLING_USEC]
    if card.product.architecture >= _TURING:
        found[_D + "JpgUtilization"] = [0, _SAMPLING_USEC]
        found[_D + "OfaUtilization"] = [0, _SAMPLING_USEC]
    processes = processes_of(card)
    found[_D + "ComputeRunningProcesses_v3"] = [[each.pid, each.used_bytes] for each in processes if not each.graphics]
    found[_D + "GraphicsRunningProcesses_v3"] = [[each.pid, each.used_bytes] for each in processes if each.graphics]
    found[_D + "MPSComputeRunningProcesses_v3"] = []
    events = EVENT_XID | (EVENT_CORRECTED | EVENT_UNCORRECTED if card.product.ecc == "on" else 0)
    found[_D + "SupportedEventTypes"] = events


def _memory(card: Card, found: Answers) -> None:
    size, reserved = card.product.memory_size_bytes, round(card.product.memory_reserved_bytes)
    used = used_bytes(card)
    free = max(0, size - reserved - used)
    found[_D + "MemoryInfo"] = {"total": size, "free": free, "used": used + reserved}
    found[_D + "MemoryInfo_v2"] = {"total": size, "reserved": reserved, "free": free, "used": used}
    bar1 = card.product.bar1_size_bytes
    in_use = min(bar1 // 2, 12 << 20)
    found[_D + "BAR1MemoryInfo"] = {"bar1Total": bar1, "bar1Free": bar1 - in_use, "bar1Used": in_use}


def _modes(card: Card, found: Answers) -> None:
    found[_D + "PersistenceMode"] = int(card.persistence and not card.knobs.persistence_off)
    found[_D + "DisplayActive"] = 0
    found[_D + "DisplayMode"] = 0
    found["FI:230"] = card.knobs.recovery_action


def _nonsense(found: Answers, reading: str, raw: int) -> None:
    """Put a raw value in the place of what a reading's functions answer."""
    match reading:
        case "temperature":
            found[_D + "Temperature:0"] = raw
            found[_D + "TemperatureV:0"] = {"temperature": raw}
        case "power":
            found.update({_D + "PowerUsage": raw, "FI:186": raw})
        case "clock":
            found.update({f"{_D}ClockInfo:{domain}": raw for domain in range(4)})
        case "utilization":
            found[_D + "UtilizationRates"] = {"gpu": raw, "memory": raw}
        case "memory":
            found[_D + "MemoryInfo"] = {"total": raw, "free": raw, "used": raw}
            found[_D + "MemoryInfo_v2"] = {"total": raw, "reserved": raw, "free": raw, "used": raw}
