"""The dcgm fields this product can answer: one row each, field -> reading -> value in DCGM's unit.

An int is printed as `%d`, a float as `%f`, a str can only become a label, None leaves the sample out. Conversions are
those of data/dcgm_fields.csv; a test holds every row against its value format there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from gpuwarden.exposition.dcgm_fields import Key
from gpuwarden.exposition.dcgm_subject import Subject
from gpuwarden.model.gpu import Missing, Scalar

MEGA, MILLI, NANO = 1e6, 1e-3, 1e-9
MEBI, KIBI = 1 << 20, 1 << 10

_LEAST, _MOST = -(2**63), 2**64

Cell: TypeAlias = int | float | str | None


class Row(NamedTuple):
    """One field with one sample per subject."""

    key: Key
    value: Callable[[Subject], Cell]


def number(subject: Subject, field: str) -> float | int | None:
    """Return a reading as a number, a vector's first element for a vector."""
    found = subject.readings.value(field)
    return finite((found[0] if found else None) if isinstance(found, tuple) else found)


def finite(value: Scalar | None) -> float | int | None:
    """Return a number that a field of 64 bits can hold; None for every other."""
    return None if value is None or isinstance(value, Missing) or not _LEAST <= value <= _MOST else value


def whole(field: str, unit: float = 1) -> Callable[[Subject], Cell]:
    """Return a reading as a whole number of `unit`, rounded: what is whole in the driver's unit comes out as it was."""

    def value(subject: Subject) -> Cell:
        found = number(subject, field)
        return None if found is None else round(found / unit)

    return value


def floor(field: str, unit: int) -> Callable[[Subject], Cell]:
    """Return a reading of whole base units as a whole number of `unit`, rounded down as DCGM's division does."""

    def value(subject: Subject) -> Cell:
        found = number(subject, field)
        return None if found is None else int(found) // unit

    return value


def real(field: str) -> Callable[[Subject], Cell]:
    """Return a reading as a real number in base units."""

    def value(subject: Subject) -> Cell:
        found = number(subject, field)
        return None if found is None else float(found)

    return value


def whole_watts(field: str) -> Callable[[Subject], Cell]:
    """Return a limit as DCGM does: milliwatts divided as whole numbers, then a real number."""

    def value(subject: Subject) -> Cell:
        found = number(subject, field)
        return None if found is None else float(round(found / MILLI) // 1000)

    return value


def element(field: str, at: int) -> Callable[[Subject], Cell]:
    """Return one element of a vector."""

    def value(subject: Subject) -> Cell:
        found = subject.readings.value(field)
        known = finite(found[at]) if isinstance(found, tuple) and at < len(found) else None
        return None if known is None else round(known)

    return value


def _bar1_free(unit: int) -> Callable[[Subject], Cell]:
    def value(subject: Subject) -> Cell:
        size, used = number(subject, "bar1_size_bytes"), number(subject, "bar1_used_bytes")
        return None if size is None or used is None else int(size - used) // unit

    return value


def _used_ratio(subject: Subject) -> Cell:
    parts = [number(subject, f"memory_{part}_bytes") for part in ("used", "size", "reserved")]
    used, size, reserved = (0 if part is None else part for part in parts)
    return None if parts[0] is None or size <= reserved else used / (size - reserved)


def _rate(subject: Subject, *fields: str) -> float | None:
    """Return the growth per second of counters together: 0 before the second sample, None where one is absent."""
    if any(number(subject, field) is None for field in fields):
        return None
    windows = subject.gpu.windows
    return sum((windows[field].rate or 0.0) for field in fields if field in windows)


def _nvlink(unit: float, *directions: str) -> Callable[[Subject], Cell]:
    fields = tuple(f"nvlink_{direction}_bytes" for direction in directions)

    def value(subject: Subject) -> Cell:
        rate = _rate(subject, *fields)
        return None if rate is None else int(rate / unit)

    return value


def _first(*values: Callable[[Subject], Cell]) -> Callable[[Subject], Cell]:
    """Return the first of several sources that has a value."""

    def value(subject: Subject) -> Cell:
        return next((found for each in values if (found := each(subject)) is not None), None)

    return value


def _total(count: str, by_link: str) -> Callable[[Subject], Cell]:
    """Return the driver's own sum over all links, else ours: none while a link that counts cannot be read."""

    def value(subject: Subject) -> Cell:
        found = number(subject, count)
        elements = subject.readings.value(by_link)
        if found is not None or not isinstance(elements, tuple):
            return None if found is None else round(found)
        counted = [each for each in elements if each is not Missing.NOT_SUPPORTED]
        known = [each for one in counted if (each := finite(one)) is not None]
        return round(sum(known)) if known and len(known) == len(counted) else None

    return value


def _link_rate(link: int, *directions: str) -> Callable[[Subject], Cell]:
    fields = tuple(f"nvlink_link_{direction}_bytes" for direction in directions)
    present = tuple(element(field, link) for field in fields)

    def value(subject: Subject) -> Cell:
        windows = [subject.gpu.link_windows.get(field) for field in fields]
        if any(get(subject) is None for get in present):
            return None
        moved = sum(window.grown[link] for window in windows if window is not None and link < len(window.last))
        seconds = max((window.span_seconds for window in windows if window is not None), default=0.0)
        return int(moved / seconds / (KIBI * 1000)) if seconds > 0 else 0

    return value


def _fabric_status(subject: Subject) -> Cell:
    """Return DCGM's number of the fabric manager's status: joining that ended badly is a failure."""
    state, status = number(subject, "fabric_state"), number(subject, "fabric_status")
    if state is None:
        return None
    return _FM_FAILURE if state == _FM_SUCCESS and status else round(state)


def _licensed(subject: Subject) -> Cell:
    """Return 0 also where the board is no virtual GPU at all, as DCGM does."""
    found = subject.readings.vgpu_licensed
    return 0 if found is Missing.NOT_SUPPORTED else None if isinstance(found, Missing) else int(found)


def _identity(field: str) -> Callable[[Subject], Cell]:
    return lambda subject: getattr(subject.gpu.identity, field) or None


def _nvml(field: str) -> Callable[[Subject], Cell]:
    return lambda subject: getattr(subject.node.nvml, field) or None


def bus_id(bdf: str) -> str:
    """Return a PCI address as NVML prints it: `00000000:3B:00.0`."""
    domain, _, rest = bdf.partition(":")
    return f"{domain.zfill(8)}:{rest}".upper()


_LIMITS = {158: "slowdown", 159: "shutdown", 152: "gpu_max", 151: "memory_max"}
_CLOCKS = {"sm": (100, 113, 1603, 1608), "memory": (101, 114, 1604, 1609), "video": (102, 115, 1605, 1610)}
_ECC = {310: "corrected_volatile", 311: "uncorrected_volatile", 312: "corrected_lifetime", 313: "uncorrected_lifetime"}
_ECC_DRAM = (318, 319, 328, 329)
_ECC_SRAM = (342, 343, 344, 345)
_ACTIVITY = {  # by GPM: Hopper and newer
    1001: "graphics_activity",
    1002: "sm_activity",
    1003: "sm_occupancy",
    1004: "tensor_activity",
    1005: "dram_activity",
    1006: "fp64_activity",
    1007: "fp32_activity",
    1008: "fp16_activity",
    1013: "tensor_imma_activity",
    1014: "tensor_hmma_activity",
    1015: "tensor_dfma_activity",
    1016: "integer_activity",
}
_FM_SUCCESS, _FM_FAILURE = 3, 4


def _links(first: int, middle: int, last: int) -> tuple[int, ...]:
    """Return the ids of a field of links 0 to 17: DCGM's numbers go on elsewhere as boards got more links."""
    return (*range(first, first + 6), *range(middle, middle + 6), *range(first + 6, first + 9), *range(last, last + 3))


_LINK_ERRORS = {  # reading -> id of the sum, ids by link
    "crc_flit": (409, _links(400, 451, 481)),
    "crc_data": (419, _links(410, 457, 484)),
    "replay": (429, _links(420, 463, 487)),
    "recovery": (439, _links(430, 469, 491)),
}
_LINK_RATES = {("tx", "rx"): _links(440, 475, 494), ("tx",): tuple(range(825, 843)), ("rx",): tuple(range(879, 897))}
_BANKS = (385, 386, 387, 388, 389)  # in the order of the reading: max, high, partial, low, none

ROWS: tuple[Row, ...] = (
    *(Row(keys[0], whole(f"{name}_clock_hertz", MEGA)) for name, keys in _CLOCKS.items()),
    *(Row(keys[1], whole(f"{name}_clock_max_hertz", MEGA)) for name, keys in _CLOCKS.items()),
    *(Row(keys[2], whole(f"{name}_clock_hertz")) for name, keys in _CLOCKS.items()),
    *(Row(keys[3], whole(f"{name}_clock_max_hertz")) for name, keys in _CLOCKS.items()),
    Row(110, whole("sm_clock_application_hertz", MEGA)),
    Row(111, whole("memory_clock_application_hertz", MEGA)),
    Row(1606, whole("sm_clock_application_hertz")),
    Row(1607, whole("memory_clock_application_hertz")),
    Row(112, whole("clocks_event_reasons")),
    Row(140, whole("memory_celsius")),
    Row(150, whole("core_celsius")),
    *(Row(key, whole(f"limit_{name}_celsius")) for key, name in _LIMITS.items()),
    Row(153, whole("margin_celsius")),
    Row(155, real("power_watts")),
    Row(157, real("power_instant_watts")),
    Row(156, whole("energy_joules", MILLI)),
    Row(1611, real("energy_joules")),
    Row(160, whole_watts("power_limit_requested_watts")),
    Row(161, whole_watts("power_limit_min_watts")),
    Row(162, whole_watts("power_limit_max_watts")),
    Row(163, whole_watts("power_limit_default_watts")),
    Row(164, whole_watts("power_limit_enforced_watts")),
    Row(190, whole("performance_state")),
    Row(191, whole("fan_speed_ratio", 0.01)),
    Row(1612, real("fan_speed_ratio")),
    Row(202, whole("pcie_replays")),
    Row(200, floor("pcie_tx_bytes_per_second", KIBI)),
    Row(201, floor("pcie_rx_bytes_per_second", KIBI)),
    Row(237, whole("pcie_generation")),
    Row(238, whole("pcie_width_lanes")),
    Row(235, whole("pcie_generation_max")),
    Row(236, whole("pcie_width_max_lanes")),
    Row(203, whole("gpu_utilization_ratio", 0.01)),
    Row(204, whole("memory_utilization_ratio", 0.01)),
    Row(206, whole("encoder_utilization_ratio", 0.01)),
    Row(207, whole("decoder_utilization_ratio", 0.01)),
    Row(240, whole("event_sw_power_cap_seconds", NANO)),  # one counter under two names: field value 74
    Row(241, whole("violation_thermal_seconds", NANO)),
    Row(242, whole("event_sync_boost_seconds", NANO)),
    Row(243, whole("violation_board_limit_seconds", NANO)),
    Row(244, whole("violation_low_utilization_seconds", NANO)),
    Row(245, whole("violation_reliability_seconds", NANO)),
    Row(1420, whole("event_sw_power_cap_seconds", NANO)),
    Row(1421, whole("event_sync_boost_seconds", NANO)),
    Row(1422, whole("event_sw_thermal_seconds", NANO)),
    Row(1423, whole("event_hw_thermal_seconds", NANO)),
    Row(1424, whole("event_power_brake_seconds", NANO)),
    Row(250, floor("memory_size_bytes", MEBI)),
    Row(251, floor("memory_free_bytes", MEBI)),
    Row(252, floor("memory_used_bytes", MEBI)),
    Row(253, floor("memory_reserved_bytes", MEBI)),
    Row(254, _used_ratio),
    Row(90, floor("bar1_size_bytes", MEBI)),
    Row(92, floor("bar1_used_bytes", MEBI)),
    Row(93, _bar1_free(MEBI)),
    Row(1600, whole("bar1_size_bytes")),
    Row(1601, whole("bar1_used_bytes")),
    Row(1602, _bar1_free(1)),
    *(Row(key, whole(f"ecc_{name}")) for key, name in _ECC.items()),
    *(Row(key, whole(f"ecc_{name}_dram")) for key, name in zip(_ECC_DRAM, _ECC.values(), strict=True)),
    *(Row(key, whole(f"ecc_{name}_sram")) for key, name in zip(_ECC_SRAM, _ECC.values(), strict=True)),
    Row(300, whole("ecc_mode")),
    Row(346, whole("sram_threshold_exceeded")),
    Row(390, whole("retired_pages_sbe")),
    Row(391, whole("retired_pages_dbe")),
    Row(392, whole("retired_pages_pending")),
    Row(393, whole("remapped_rows_uncorrected")),
    Row(394, whole("remapped_rows_corrected")),
    Row(395, whole("row_remap_failed")),
    Row(396, whole("row_remap_pending")),
    *(Row(key, element("row_remap_banks", at)) for at, key in enumerate(_BANKS)),
    Row(449, _nvlink(KIBI * 1000, "tx", "rx")),  # KiB a second, divided by 1000: DCGM's own unit
    Row(843, _nvlink(KIBI * 1000, "tx")),
    Row(897, _nvlink(KIBI * 1000, "rx")),
    *(
        Row(key, _link_rate(link, *directions))
        for directions, ids in _LINK_RATES.items()
        for link, key in enumerate(ids)
    ),
    *(Row(key, _total(f"nvlink_{kind}_count", f"nvlink_{kind}_errors")) for kind, (key, _) in _LINK_ERRORS.items()),
    *(
        Row(key, element(f"nvlink_{kind}_errors", link))
        for kind, (_, ids) in _LINK_ERRORS.items()
        for link, key in enumerate(ids)
    ),
    Row(170, _fabric_status),
    Row(174, whole("fabric_health_mask")),
    Row(175, whole("fabric_health_summary")),
    Row(1201, whole("nvlink_tx_bytes")),
    Row(1203, whole("nvlink_rx_bytes")),
    Row(1009, whole("pcie_tx_bytes_per_second")),
    Row(1010, whole("pcie_rx_bytes_per_second")),
    Row(1011, _first(whole("nvlink_tx_bytes_per_second"), _nvlink(1, "tx"))),
    Row(1012, _first(whole("nvlink_rx_bytes_per_second"), _nvlink(1, "rx"))),
    *(Row(key, real(f"{unit}_ratio")) for key, unit in _ACTIVITY.items()),
    Row(526, _licensed),
    Row(66, whole("persistence_mode")),
    Row(67, whole("mig_mode")),
    Row(1523, whole("recovery_action")),
    Row(4, lambda subject: subject.node.nvml.count),
    Row(52, lambda subject: subject.gpu.index),
    Row(55, lambda subject: subject.gpu.identity.minor),
    Row(1, _nvml("driver")),
    Row(2, _nvml("nvml")),
    Row(50, _identity("name")),
    Row(51, _identity("brand")),
    Row(53, _identity("serial")),
    Row(54, _identity("uuid")),
    Row(56, _identity("inforom_oem")),
    Row(57, lambda subject: bus_id(subject.gpu.identity.bdf)),
    Row(80, _identity("inforom_ecc")),
    Row(81, _identity("inforom_power")),
    Row(82, _identity("inforom_image")),
    Row(85, _identity("vbios")),
)

ROW_BY_KEY: dict[Key, Row] = {row.key: row for row in ROWS}
