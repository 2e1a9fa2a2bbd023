"""The reading table through pynvml: units, reasons for absence, faults, and answers outside physics."""

from __future__ import annotations

from typing import Any

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwarden.model.gpu import READINGS, VECTOR_READINGS, GpuIdentity, Lane, Missing
from gpuwarden.nvml import gpm
from gpuwarden.nvml.codes import WHOLE_GPU, missing_of
from gpuwarden.nvml.driver import GPM_LANE, GpuMemory, LaneResult, identify, normal_bdf, read_lane
from gpuwarden.nvml.gpm import METRICS
from gpuwarden.nvml.plausible import BOUNDS
from gpuwarden.nvml.readings import CALLS, FIELDS, LINK_FIELDS, VECTORS, WHOLES
from support.fakenvml import FakeLibrary, library

PCI = {"set": {"domain": 0x10000, "bus": 0x3B, "device": 0x1F}}


def read(fake: FakeLibrary, lane: Lane = Lane.FAST, memory: GpuMemory | None = None) -> LaneResult:
    """Read one lane of the fake library."""
    with library(fake):
        return read_lane(object(), lane, memory or GpuMemory())


def test_every_reading_has_a_row_and_every_row_a_reading() -> None:
    """The table and the record are the same list."""
    rows = {name for call in CALLS for name in call.readings}
    vectors = {vector.reading for vector in (*VECTORS, *WHOLES, *LINK_FIELDS)}
    rows |= {field.reading for field in FIELDS} | vectors
    rows |= {row.reading for row in METRICS} | {"mig_instances"}
    assert rows == set(READINGS)
    assert vectors == VECTOR_READINGS
    assert set(BOUNDS) == set(READINGS)


def test_a_reading_is_taken_in_one_lane_only() -> None:
    """Fallback rows are of the lane of the row they stand in for: a lane can expire as a whole.

    Not PCIe traffic, which GPM gives in one lane where it can, and which is sampled in another where it cannot.
    """
    lanes: dict[str, set[Lane]] = {row.reading: {GPM_LANE} for row in METRICS if row not in gpm.PCIE}
    for call in CALLS:
        for name in call.readings:
            lanes.setdefault(name, set()).add(call.lane)
    assert {name for name, found in lanes.items() if len(found) > 1} == set()


@pytest.mark.parametrize("lane", list(Lane))
def test_every_row_makes_a_number_of_a_driver_s_answer(lane: Lane) -> None:
    """A library that answers every call: no row is lost on the shape in which the binding hands its answer over."""
    fields = {field.id: (field.member, 1) for field in FIELDS}
    values = read(Willing(fields=fields), lane).values
    assert values
    assert Missing.UNKNOWN not in values.values()


class Willing(FakeLibrary):
    """Has every function and answers SUCCESS to all, with one fan, but for the codes it is given."""

    def __init__(self, fields: dict[int, Any], codes: dict[str, int] | None = None) -> None:
        super().__init__(fields=fields)
        self.codes = codes or {}

    def __getattr__(self, name: str) -> Any:
        if name in self.codes:
            return lambda *_: self.codes[name]
        if name == "nvmlDeviceGetFieldValues":
            return super().__getattr__(name)
        if name == "nvmlDeviceGetNumFans":
            return lambda _, count: setattr(count._obj, "value", 1) or 0
        return lambda *_: 0


@pytest.mark.parametrize(
    ("function", "answer", "reading", "value", "lane"),
    [
        ("nvmlDeviceGetPowerUsage", {"out": 412_500}, "power_watts", 412.5, Lane.FAST),
        ("nvmlDeviceGetTotalEnergyConsumption", {"out": 1_234_567}, "energy_joules", 1234.567, Lane.FAST),
        ("nvmlDeviceGetUtilizationRates", {"set": {"gpu": 87, "memory": 40}}, "gpu_utilization_ratio", 0.87, Lane.FAST),
        ("nvmlDeviceGetClockInfo", {"out": 1980}, "sm_clock_hertz", 1_980_000_000, Lane.FAST),
        ("nvmlDeviceGetTemperature", {"out": 41}, "core_celsius", 41, Lane.FAST),
        ("nvmlDeviceGetMarginTemperature", {"set": {"marginTemperature": 26}}, "margin_celsius", 26, Lane.FAST),
        ("nvmlDeviceGetPcieThroughput", {"out": 3}, "pcie_tx_bytes_per_second", 3072, Lane.PCIE),
        ("nvmlDeviceGetTotalEccErrors", {"out": 7}, "ecc_corrected_volatile", 7, Lane.NORMAL),
        ("nvmlDeviceGetPersistenceMode", {"out": 1}, "persistence_mode", 1, Lane.SLOW),
        ("nvmlDeviceGetMaxPcieLinkWidth", {"out": 16}, "pcie_width_max_lanes", 16, Lane.STATIC),
    ],
)
def test_units_are_base_units(function: str, answer: dict[str, Any], reading: str, value: float, lane: Lane) -> None:
    """Milliwatts, millijoules, megahertz, percent and kibibytes do not leave the driver table."""
    assert read(FakeLibrary({function: answer}), lane).values[reading] == pytest.approx(value)


def test_field_values_are_read_from_the_member_that_holds_them() -> None:
    """Offsets are signed, counters are 64 bit, whatever type the driver names."""
    fields = {82: ("uiVal", 48), 193: ("siVal", -8), 194: ("siVal", -2), 270: ("ullVal", 2_500_000_000), 230: 3}
    fast = read(FakeLibrary(fields=fields)).values
    static = read(FakeLibrary(fields=fields), Lane.STATIC).values
    assert fast["memory_celsius"] == 48
    assert fast["event_hw_thermal_seconds"] == 2.5
    assert static["margin_limit_shutdown_celsius"] == -8
    assert static["margin_limit_max_operating_celsius"] is Missing.NOT_SUPPORTED


def test_a_library_without_any_symbol_supports_nothing_and_raises_nothing() -> None:
    """Symbols missing from an older library: every reading is NOT_SUPPORTED, no lane faults."""
    for lane in Lane:
        result = read(FakeLibrary(), lane)
        assert result.fault is None
        assert set(result.values.values()) <= {Missing.NOT_SUPPORTED}


def test_what_is_not_supported_is_asked_once_a_session() -> None:
    """A call that this GPU does not have is not repeated every second."""
    fake = FakeLibrary({"nvmlDeviceGetPowerUsage": 3, "nvmlDeviceGetTemperature": {"out": 40}})
    memory = GpuMemory()
    read(fake, memory=memory)
    fake.calls.clear()
    read(fake, memory=memory)
    assert fake.calls == ["nvmlDeviceGetTemperature"]


def test_a_fallback_is_asked_only_where_the_first_is_unsupported() -> None:
    """TemperatureV answers: the deprecated getter stays untouched. TIMED_OUT is an answer too."""
    for answer in ({"set": {"temperature": 50}}, 10):
        fake = FakeLibrary({"nvmlDeviceGetTemperatureV": answer, "nvmlDeviceGetTemperature": {"out": 1}})
        assert read(fake).values["core_celsius"] in (50, Missing.TIMED_OUT)
        assert "nvmlDeviceGetTemperature" not in fake.calls


@given(st.integers(min_value=1, max_value=1200), st.sampled_from(list(Lane)))
def test_any_return_code_is_a_reason_or_a_fault_never_a_value(code: int, lane: Lane) -> None:
    """Whatever a library answers to every call, no number is made up and nothing is raised."""
    functions = {call.name: code for call in CALLS} | {vector.name: code for vector in (*VECTORS, *WHOLES)}
    functions |= {"nvmlDeviceGetMemoryInfo": code, "nvmlDeviceGetNumFans": code, "nvmlDeviceGetFieldValues": code}
    result = read(FakeLibrary(functions), lane)  # type: ignore[arg-type]
    if code in WHOLE_GPU:
        assert result.fault == code
        assert result.where.startswith("nvmlDeviceGet")
    else:
        assert result.fault is None
        assert set(result.values.values()) <= {missing_of(code), Missing.NOT_SUPPORTED}
        assert result.rejected == ()


CODES = st.one_of(st.sampled_from([2, 3, 4, 10, 13, 25, 999]), st.integers(-(2**31), 2**31 - 1).filter(bool))


@given(st.dictionaries(st.sampled_from(sorted({call.name for call in CALLS})), CODES), st.sampled_from(list(Lane)))
def test_a_number_comes_only_from_a_call_that_succeeded(codes: dict[str, int], lane: Lane) -> None:
    """Any mixture of answers: a reading holds a number only where one of its rows was answered with SUCCESS, and the
    lane is whole or names its fault."""
    result = read(Willing(fields={field.id: (field.member, 1) for field in FIELDS}, codes=codes), lane)
    sources: dict[str, set[str]] = {}
    for call in CALLS:
        for name in call.readings:
            sources.setdefault(name, set()).add(call.name)
    for name, value in result.values.items():
        if name in sources and not isinstance(value, Missing):
            assert sources[name] - codes.keys()
    expected = {name for call in CALLS if call.lane is lane for name in call.readings}
    assert result.fault in WHOLE_GPU or expected <= result.values.keys()


@given(st.integers(min_value=1, max_value=1200))
def test_a_field_s_own_return_code_is_its_own_reason(code: int) -> None:
    """One bad field does not spoil its batch; a code about the whole GPU ends it."""
    result = read(FakeLibrary(fields={82: code, 74: ("ullVal", 10**9)}))
    if code in WHOLE_GPU:
        assert result.fault == code
    else:
        assert result.values["memory_celsius"] is missing_of(code, choice=True)
        assert result.values["event_sw_power_cap_seconds"] == 1.0


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf-8", b"x", 0, 1, "no"), ValueError("garbage"), OSError("x")])
def test_an_exception_that_is_no_nvml_error_is_an_unknown_reading(error: Exception) -> None:
    """Foreign structures make ctypes raise: the reading is UNKNOWN, its siblings are there."""

    def fail(*_: Any) -> int:
        raise error

    values = read(FakeLibrary({"nvmlDeviceGetPowerUsage": fail, "nvmlDeviceGetTemperature": {"out": 40}})).values
    assert values["power_watts"] is Missing.UNKNOWN
    assert values["core_celsius"] == 40


@pytest.mark.parametrize(
    ("function", "raw", "reading", "lane"),
    [
        ("nvmlDeviceGetTemperature", 644_245_923, "core_celsius", Lane.FAST),
        ("nvmlDeviceGetTemperature", 255, "core_celsius", Lane.FAST),
        ("nvmlDeviceGetPowerUsage", 4_294_967_295, "power_watts", Lane.FAST),
        ("nvmlDeviceGetPerformanceState", 4_294_967_295, "performance_state", Lane.FAST),
        ("nvmlDeviceGetTotalEnergyConsumption", 2**64 - 1, "energy_joules", Lane.FAST),
        ("nvmlDeviceGetPcieThroughput", 4_294_967_295, "pcie_tx_bytes_per_second", Lane.PCIE),
        ("nvmlDeviceGetTemperatureThreshold", 0, "limit_shutdown_celsius", Lane.STATIC),
        ("nvmlDeviceGetEnforcedPowerLimit", 0, "power_limit_enforced_watts", Lane.NORMAL),
        ("nvmlDeviceGetCurrPcieLinkGeneration", 0, "pcie_generation", Lane.NORMAL),
        ("nvmlDeviceGetCurrentClocksEventReasons", 2**64 - 1, "clocks_event_reasons", Lane.FAST),
        ("nvmlDeviceGetPcieReplayCounter", 4_294_967_295, "pcie_replays", Lane.NORMAL),
        ("nvmlDeviceGetTotalEccErrors", 2**64 - 1, "ecc_uncorrected_volatile", Lane.NORMAL),
        ("nvmlDeviceGetCurrPcieLinkWidth", 99, "pcie_width_lanes", Lane.NORMAL),
    ],
)
def test_an_answer_outside_physics_is_implausible_and_named(function: str, raw: int, reading: str, lane: Lane) -> None:
    """SUCCESS with a value that cannot be: no value, and the reading is counted as rejected."""
    result = read(FakeLibrary({function: {"out": raw}}), lane)
    assert result.values[reading] is Missing.IMPLAUSIBLE
    assert reading in result.rejected


@pytest.mark.parametrize(
    ("busy", "megahertz", "expected"),
    [
        pytest.param({"set": {"gpu": 99, "memory": 10}}, 210, Missing.IMPLAUSIBLE, id="busy"),
        pytest.param(3, 1980, Missing.IMPLAUSIBLE, id="mig-with-clocks-up"),
        pytest.param({"set": {"gpu": 0, "memory": 0}}, 210, 0, id="idle"),
    ],
)
def test_no_power_under_load_or_with_clocks_up_is_implausible(busy: Any, megahertz: int, expected: Any) -> None:
    """0 W from an idle card may be; from one that works it is a broken sensor."""
    functions = {
        "nvmlDeviceGetPowerUsage": {"out": 0},
        "nvmlDeviceGetUtilizationRates": busy,
        "nvmlDeviceGetClockInfo": {"out": megahertz},
    }
    result = read(FakeLibrary(functions))
    assert result.values["power_watts"] == expected
    assert ("power_watts" in result.rejected) == (expected is Missing.IMPLAUSIBLE)


def test_more_memory_used_than_there_is_is_implausible() -> None:
    """The size is a fact of the board: it is the other figure that is wrong."""
    answer = {"set": {"total": 1000, "used": 1001, "free": 0, "reserved": 10}}
    result = read(FakeLibrary({"nvmlDeviceGetMemoryInfo_v2": answer}))
    assert result.rejected == ("memory_used_bytes",)
    assert result.values["memory_size_bytes"] == 1000


def test_what_was_read_before_a_fault_is_checked_too() -> None:
    """A card on its way off the bus answers garbage first: the garbage is no value."""
    functions = {"nvmlDeviceGetTemperature": {"out": 644_245_923}, "nvmlDeviceGetPowerUsage": 15}
    result = read(FakeLibrary(functions))
    assert (result.fault, result.where) == (15, "nvmlDeviceGetPowerUsage")
    assert result.values["core_celsius"] is Missing.IMPLAUSIBLE
    assert result.rejected == ("core_celsius",)


def test_a_performance_state_the_driver_does_not_know_is_unknown() -> None:
    """32 is NVML's own word for that, not a broken answer."""
    result = read(FakeLibrary({"nvmlDeviceGetPerformanceState": {"out": 32}}))
    assert result.values["performance_state"] is Missing.UNKNOWN
    assert result.rejected == ()


def test_invalid_argument_means_unsupported_only_where_something_was_chosen() -> None:
    """A stale handle gets INVALID_ARGUMENT from every call: that GPU is not one that supports nothing."""
    functions = {"nvmlDeviceGetPowerUsage": 2, "nvmlDeviceGetClockInfo": 2}
    memory = GpuMemory()
    values = read(FakeLibrary(functions), memory=memory).values
    assert values["power_watts"] is Missing.UNKNOWN
    assert values["sm_clock_hertz"] is Missing.NOT_SUPPORTED
    again = FakeLibrary({"nvmlDeviceGetPowerUsage": {"out": 50_000}, "nvmlDeviceGetClockInfo": {"out": 900}})
    assert read(again, memory=memory).values["sm_clock_hertz"] == 900_000_000


def test_a_field_that_the_driver_leaves_untouched_is_no_zero() -> None:
    """SUCCESS for the batch says nothing about an entry nobody wrote to."""
    values = read(FakeLibrary({"nvmlDeviceGetFieldValues": 0})).values
    assert values["memory_celsius"] is Missing.UNKNOWN
    assert values["event_hw_thermal_seconds"] is Missing.UNKNOWN


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({138: ("ullVal", 2), 202: 3}, 2048, id="kibibytes-before-nvlink-5"),
        pytest.param({138: 3, 202: ("ullVal", 2000)}, 2000, id="bytes-since"),
        pytest.param({138: ("ullVal", 2), 202: ("ullVal", 9000)}, 2048, id="the-first-that-answers"),
    ],
)
def test_nvlink_bytes_come_from_the_field_that_this_generation_has(fields: dict[int, Any], expected: int) -> None:
    """Two generations count in different fields and units."""
    assert read(FakeLibrary(fields=fields), Lane.NORMAL).values["nvlink_tx_bytes"] == expected


def test_a_change_of_mig_mode_forgets_what_was_not_supported() -> None:
    """Utilisation goes with MIG and comes back without it."""
    memory = GpuMemory()
    for mode, rates in ((1, 3), (0, {"set": {"gpu": 50, "memory": 5}})):
        fake = FakeLibrary({"nvmlDeviceGetMigMode": _mode(mode), "nvmlDeviceGetUtilizationRates": rates})
        read(fake, Lane.NORMAL, memory)
        result = read(fake, memory=memory)
    assert result.values["gpu_utilization_ratio"] == 0.5


def _mode(mode: int) -> Any:
    def answer(_: Any, current: Any, pending: Any) -> int:
        current._obj.value = pending._obj.value = mode
        return 0

    return answer


def test_a_process_counts_once_and_a_compute_board_has_no_graphics_list() -> None:
    """A process that computes and draws is one; a missing second list takes nothing from the first."""

    def listed(*pids: int) -> Any:
        def answer(_: Any, count: Any, rows: Any) -> int:
            if rows is None:
                count._obj.value = len(pids)
                return 7 if pids else 0
            for row, pid in zip(rows, pids, strict=False):
                row.pid = pid
            count._obj.value = len(pids)
            return 0

        return answer

    compute, graphics = "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3"
    both = FakeLibrary({compute: listed(10, 11), graphics: listed(11, 12)})
    assert read(both, Lane.SLOW).values["processes"] == 3
    assert read(FakeLibrary({compute: listed(10), graphics: 3}), Lane.SLOW).values["processes"] == 1
    assert read(FakeLibrary({compute: listed()}), Lane.SLOW).values["processes"] == 0


def test_each_fan_is_asked_for_itself() -> None:
    """The binding's own RPM getter only knows fan 0; one bad fan leaves the others."""

    def speed(_: Any, fan: int, out: Any) -> int:
        out._obj.value = (40, 62)[fan]
        return 0

    def rpm(_: Any, out: Any) -> int:
        if out._obj.fan == 0:
            return 999
        out._obj.speed = 2200
        return 0

    functions = {"nvmlDeviceGetNumFans": {"out": 2}, "nvmlDeviceGetFanSpeed_v2": speed, "nvmlDeviceGetFanSpeedRPM": rpm}
    values = read(FakeLibrary(functions), Lane.NORMAL).values
    assert values["fan_speed_ratio"] == pytest.approx((0.40, 0.62))
    assert values["fan_speed_rpm"] == (Missing.UNKNOWN, 2200)


def test_a_card_without_fans_has_no_fan_reading() -> None:
    """Zero fans is a passive board, not fans at speed zero."""
    assert read(FakeLibrary({"nvmlDeviceGetNumFans": {"out": 0}}), Lane.NORMAL).values["fan_speed_ratio"] is (
        Missing.NOT_SUPPORTED
    )


def test_links_that_a_board_does_not_have_are_left_out_behind_the_last_one() -> None:
    """Four links of eighteen: four elements, one of them down."""

    def state(_: Any, link: int, out: Any) -> int:
        if link >= 4:
            return 2
        out._obj.value = int(link != 1)
        return 0

    assert read(FakeLibrary({"nvmlDeviceGetNvLinkState": state}), Lane.SLOW).values["nvlink_up"] == (1, 0, 1, 1)


@pytest.mark.parametrize(
    ("answer", "bdf"),
    [
        pytest.param(PCI["set"], "10000:3b:1f.0", id="numbers"),
        pytest.param({"busId": b"00000000:3B:00.0"}, "0000:3b:00.0", id="text-alone"),
        pytest.param({"bus": 0x3B, "busId": b"no address"}, "0000:3b:00.0", id="text-of-no-use"),
    ],
)
def test_an_address_is_written_one_way(answer: dict[str, Any], bdf: str) -> None:
    """Four digits of domain or as many as it takes, lower case, with the function: as sysfs writes it."""
    info = pynvml.nvmlPciInfo_t(**answer)
    assert normal_bdf(info) == bdf


def test_identity_has_a_normal_address_and_survives_missing_names() -> None:
    """Domain beyond 16 bits keeps its digits; what the driver does not say is empty."""

    def uuid(_: Any, buffer: Any, __: Any) -> int:
        buffer.value = b"GPU-1"
        return 0

    with library(FakeLibrary({"nvmlDeviceGetPciInfo_v3": PCI, "nvmlDeviceGetUUID": uuid})):
        assert identify(object(), GpuMemory()) == GpuIdentity(uuid="GPU-1", bdf="10000:3b:1f.0")


@pytest.mark.parametrize("code", [15, 999])
def test_without_address_or_uuid_there_is_no_identity(code: int) -> None:
    """The code that stood in the way comes back with the call that gave it."""
    fake = FakeLibrary({"nvmlDeviceGetPciInfo_v3": PCI, "nvmlDeviceGetUUID": code})
    with library(fake):
        assert identify(object(), GpuMemory()) == LaneResult(fault=code, where="nvmlDeviceGetUUID")


def test_the_call_in_progress_is_named_while_it_lasts() -> None:
    """A heartbeat that looks at `memory.call` sees the function the thread sits in, and "" between calls."""
    memory = GpuMemory()
    seen: list[str] = []

    def look(*_: Any) -> int:
        seen.append(memory.call)
        return 3

    read(FakeLibrary({"nvmlDeviceGetPowerUsage": look}), memory=memory)
    assert seen == ["nvmlDeviceGetPowerUsage"]
    assert memory.call == ""


def test_each_call_of_an_identity_is_named_too() -> None:
    """A card may hang while it reads its serial number out of flash: that call is the one to name."""
    memory = GpuMemory()
    seen: list[tuple[str, str]] = []

    def look(function: str) -> Any:
        def answer(*_: Any) -> int:
            seen.append((function, memory.call))
            return 0

        return answer

    getters = ("PciInfo_v3", "UUID", "Name", "Serial", "VbiosVersion", "MinorNumber", "BoardPartNumber")
    functions = [f"nvmlDeviceGet{getter}" for getter in getters]
    with library(FakeLibrary({function: look(function) for function in functions})):
        identify(object(), memory)
    assert seen == [(function, function) for function in functions]
    assert memory.call == ""
