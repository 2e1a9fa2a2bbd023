"""The simulated library through the real binding: the same code path as hardware."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pynvml
import pytest

from gpuwarden.errors import InputError
from gpuwarden.model.gpu import READINGS, GpuIdentity, Lane, Missing, Value
from gpuwarden.nvml.driver import GpuMemory, LaneResult, identify, read_lane
from gpuwarden.nvml.readings import CALLS, VECTORS, WHOLES
from gpuwarden.nvml.session import close_session, handle_of, open_session
from gpuwarden.sim.inprocess import CallCrashed, CallHung, InProcess
from gpuwarden.sim.nvml import FUNCTIONS, SimLibrary
from gpuwarden.sim.products import products
from gpuwarden.sim.world import WALL_AT_START, World
from support.fakenvml import library


@contextmanager
def node(product: str = "a100", count: int = 4) -> Iterator[World]:
    """A world behind pynvml, with an open session."""
    world = World(products()[product], count)
    world.advance(1.0)
    with library(SimLibrary(InProcess(world))):
        assert open_session().code == 0
        yield world
        close_session()


def read(index: int = 0) -> dict[str, Value]:
    """Read every lane of one GPU through the real driver table."""
    values: dict[str, Value] = {}
    for lane in Lane:
        result = read_lane(handle_of(index)[0], lane, GpuMemory())
        assert result.fault is None, result
        assert result.rejected == ()
        values |= result.values
    return values


def test_every_call_of_the_reading_table_is_there() -> None:
    """What the driver asks is in the simulated library: a new row must be simulated too."""
    asked = {row.name for row in (*CALLS, *VECTORS, *WHOLES)}
    assert asked <= FUNCTIONS


@pytest.mark.parametrize("product", sorted(products()))
def test_every_product_reads_plausibly(product: str) -> None:
    """Each product answers each reading with a value inside physics or with "not supported", nothing else."""
    with node(product):
        values = read()
    assert set(values) == set(READINGS)
    missing = {name: value for name, value in values.items() if isinstance(value, Missing)}
    missing.pop(
        "ecc_mode_default", None
    )  # the binding gives it as a list of one; whether that is read is not judged here
    assert set(missing.values()) <= {Missing.NOT_SUPPORTED}
    idle_needs = {"core_celsius", "power_watts", "sm_clock_hertz", "memory_used_bytes", "pcie_width_lanes", "processes"}
    assert not idle_needs & missing.keys()


def test_products_differ_in_what_they_have() -> None:
    """What a card does not have is not supported: fans, ECC, margins, links."""
    with node("rtx4090"):
        gaming = read()
    with node("h100"):
        hopper = read()
    assert gaming["margin_celsius"] is Missing.NOT_SUPPORTED
    assert isinstance(hopper["margin_celsius"], int)
    assert gaming["limit_slowdown_celsius"] == 96
    assert hopper["limit_slowdown_celsius"] is Missing.NOT_SUPPORTED
    assert hopper["margin_limit_slowdown_celsius"] == -2
    assert isinstance(gaming["fan_speed_ratio"], tuple)
    assert hopper["fan_speed_ratio"] is Missing.NOT_SUPPORTED
    assert hopper["nvlink_up"] == (1,) * 18
    assert gaming["ecc_uncorrected_volatile"] is Missing.NOT_SUPPORTED
    assert hopper["ecc_uncorrected_volatile"] == 0


def test_each_generation_counts_its_own_nvlink_errors() -> None:
    """Twelve links before Hopper, with CRC errors by kind; eighteen since; on NVLink 5 what error correction left."""
    for product, links, counted, absent in (
        ("a100", 12, "crc_flit", "crc"),
        ("h100", 18, "crc", "crc_flit"),
        ("b200", 18, "effective", "replay"),
    ):
        with node(product) as world:
            world.inject("nvlink_errors", 0, {"error": counted, "link": 11, "per_second": 10.0})
            world.inject("nvlink_down", 0, {"link": 3})
            world.advance(2.0)
            values = read()
        errors, up = values[f"nvlink_{counted}_errors"], values["nvlink_up"]
        assert errors == (*(0,) * 11, 20, *(0,) * (links - 12))
        assert up == (1, 1, 1, 0, *(1,) * (links - 4))
        assert values[f"nvlink_{absent}_errors"] is Missing.NOT_SUPPORTED
        assert isinstance(values["nvlink_tx_bytes"], int)
        assert values["nvlink_tx_bytes"] > 1e9


def test_a_gpu_says_who_it_is() -> None:
    """Identity: uuid, PCI address, name, serial where the product has one."""
    with node() as world:
        who = identify(handle_of(2)[0], GpuMemory())
        handle = pynvml.nvmlDeviceGetHandleByUUID(world.cards[1].identity.uuid.encode())
        same = pynvml.nvmlDeviceGetHandleByPciBusId(b"00000000:21:00.0")
        assert pynvml.nvmlDeviceGetIndex(handle) == pynvml.nvmlDeviceGetIndex(same) == 1
    assert isinstance(who, GpuIdentity)
    assert (who.bdf, who.name, who.minor) == ("0000:41:00.0", "NVIDIA A100-SXM4-80GB", 2)
    assert who.serial == world.cards[2].identity.serial != ""


def test_versions_are_the_products() -> None:
    """The session says driver, library and CUDA."""
    with library(SimLibrary(InProcess(World(products()["h100"], 8)))):
        opened = open_session()
        close_session()
    assert (opened.driver, opened.nvml, opened.cuda, opened.count) == ("590.48.01", "13.590.48.01", "13.1", 8)


def test_what_the_library_lacks_is_function_not_found() -> None:
    """A function that is not simulated looks like an older library."""
    with node(), pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetConfComputeMemSizeInfo(handle_of(0)[0])


def test_structures_of_another_version_are_refused() -> None:
    """As in the driver: ARGUMENT_VERSION_MISMATCH."""
    with node():
        info = pynvml.c_nvmlTemperature_v1_t(version=0x2000010, sensorType=0)
        code = pynvml.nvmlLib.nvmlDeviceGetTemperatureV(handle_of(0)[0], ctypes.byref(info))
    assert code == pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH


def test_a_text_buffer_that_is_too_small_stays_empty() -> None:
    """INSUFFICIENT_SIZE, and nothing written."""
    with node():
        buffer = ctypes.create_string_buffer(4)
        code = pynvml.nvmlLib.nvmlDeviceGetName(handle_of(0)[0], buffer, ctypes.c_uint(4))
    assert (code, buffer.value) == (pynvml.NVML_ERROR_INSUFFICIENT_SIZE, b"")


def test_without_a_session_nothing_answers() -> None:
    """UNINITIALIZED before init and after shutdown."""
    with library(SimLibrary(InProcess(World(products()["t4"], 1)))), pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()


def test_a_lost_gpu_answers_so_and_its_sibling_does_not() -> None:
    """GPU_IS_LOST on every call and on the handle; UNKNOWN on the handle of one that fell off the bus."""
    with node() as world:
        handle = handle_of(1)[0]
        world.inject("lost", 1)
        assert read_lane(handle, Lane.FAST, GpuMemory()).fault == 15
        assert handle_of(1) == (None, 15)
        assert read(0)["core_celsius"] is not Missing.GPU_LOST
        world.inject("fallen_off", 2)
        assert handle_of(2) == (None, 999)


def test_a_hung_call_hangs_alone() -> None:
    """One call of one GPU: the others of the same GPU answer."""
    with node() as world:
        handle = handle_of(1)[0]
        world.inject("hung", 1, {"call": "PowerUsage"})
        with pytest.raises(CallHung) as hung:
            pynvml.nvmlDeviceGetPowerUsage(handle)
        assert (hung.value.slot, hung.value.function) == (1, "nvmlDeviceGetPowerUsage")
        assert pynvml.nvmlDeviceGetTemperature(handle, 0) > 20
        world.clear("hung", 1)
        assert pynvml.nvmlDeviceGetPowerUsage(handle) > 10_000


def test_a_crash_is_no_answer() -> None:
    """A call that kills its process is nothing that driver code could catch."""
    with node() as world:
        handle = handle_of(1)[0]
        world.inject("crash", 1)
        with pytest.raises(CallCrashed):
            read_lane(handle, Lane.FAST, GpuMemory())
        assert read(1)["power_watts"] is not Missing.UNKNOWN


@pytest.mark.parametrize(
    ("reading", "field"),
    [
        ("temperature", "core_celsius"),
        ("clock", "sm_clock_hertz"),
        ("utilization", "gpu_utilization_ratio"),
        ("memory", "memory_used_bytes"),
        ("power", "power_watts"),
    ],
)
def test_nonsense_of_the_driver_is_rejected(reading: str, field: str) -> None:
    """Every kind of implausible answer ends as IMPLAUSIBLE in the driver table, and never as a value."""
    with node() as world:
        world.inject("implausible", 0, {"reading": reading})
        result = read_lane(handle_of(0)[0], Lane.FAST, GpuMemory())
    assert result.values[field] is Missing.IMPLAUSIBLE
    assert field in result.rejected


def test_faults_reach_the_readings() -> None:
    """ECC, remap, link width, brake, recovery action: each is seen where it is read."""
    with node() as world:
        world.inject("ecc", 0, {"uncorrected": 3, "per_second": 10})
        world.inject("remap", 1)
        world.inject("downtrained", 2, {"width": 8})
        world.inject("power_brake", 3)
        world.advance(5.0)
        ecc, remap, link, brake = (read(index) for index in range(4))
    assert ecc["ecc_uncorrected_volatile"] == ecc["ecc_uncorrected_volatile_dram"] == 3
    assert ecc["ecc_corrected_volatile"] == pytest.approx(50, abs=2)
    assert (remap["row_remap_pending"], remap["recovery_action"]) == (1, 4)
    assert (link["pcie_width_lanes"], link["pcie_width_max_lanes"]) == (8, 16)
    assert int(brake["clocks_event_reasons"]) & 0x80  # type: ignore[arg-type]
    assert brake["event_power_brake_seconds"] == pytest.approx(5.0, abs=0.2)


class Shown(NamedTuple):
    """What a fault does to one reading of a product."""

    product: str
    fault: str
    options: dict[str, Any]
    reading: str
    healthy: Any
    faulty: Any


RAMP = {"from_per_hour": 3600.0, "to_per_hour": 7200.0, "seconds": 1.0}
MEMORY_FAULTS = [
    Shown("a100", "ecc", {"per_second": 5.0, "memory": "sram"}, "ecc_corrected_volatile_sram", 0, 10),
    Shown("a100", "ecc_ramp", RAMP, "ecc_corrected_volatile", 0, 4),
    Shown("a100", "spares", {"low": 3, "none": 1}, "row_remap_banks", (640, 0, 0, 0, 0), (636, 0, 0, 3, 1)),
    Shown("a100", "remap", {"rows": 512}, "remapped_rows_uncorrected", 0, 512),
    Shown("a100", "remap", {"quiet": 1}, "row_remap_pending", 0, 1),
    Shown("a100", "repair", {}, "channel_repair_pending", 0, 1),
    Shown("a100", "repair", {"impossible": 1}, "unrepairable_memory", 0, 1),
    Shown("h100", "sram_threshold", {}, "sram_threshold_exceeded", 0, 1),
    Shown("h100", "ecc_off", {}, "ecc_mode", 1, 0),
    Shown("t4", "retire", {"double_bit": 3}, "retired_pages_dbe", 0, 3),
    Shown("t4", "retire", {"single_bit": 2, "double_bit": 0}, "retired_pages_sbe", 0, 2),
    Shown("t4", "retire", {"pending": 1}, "retired_pages_pending", 0, 1),
    Shown(
        "t4",
        "retire",
        {"days_ago": 2.0},
        "retired_pages_dbe_timestamp_seconds",
        Missing.NOT_SUPPORTED,
        WALL_AT_START - 2 * 86400.0,
    ),
]


@pytest.mark.parametrize("shown", MEMORY_FAULTS, ids=[row.reading for row in MEMORY_FAULTS])
def test_memory_faults_reach_their_readings(shown: Shown) -> None:
    """Each is seen through the real driver table, and only where it was put."""
    with node(shown.product, 2) as world:
        world.inject(shown.fault, 1, shown.options)
        world.advance(2.0)
        well, ill = read(0), read(1)
    assert well[shown.reading] == shown.healthy
    assert ill[shown.reading] == pytest.approx(shown.faulty, abs=1)


def test_what_a_product_cannot_have_is_refused() -> None:
    """A GeForce has no spare rows, an A100 retires no pages, an H100's capture shows no repairs."""
    cannot = (("rtx4090", "spares"), ("a100", "retire"), ("h100", "repair"), ("rtx4080s", "sram_threshold"))
    for product, fault in cannot:
        with pytest.raises(InputError):
            World(products()[product], 1).inject(fault, 0)
    with pytest.raises(InputError, match="memory is one of"):
        World(products()["a100"], 1).inject("ecc", 0, {"memory": "l2"})


def test_a_ghost_is_busy_without_work() -> None:
    """100 % at idle power, and no process."""
    with node() as world:
        world.inject("ghost_busy", 0)
        world.advance(20.0)
        ghost = read(0)
    assert (ghost["gpu_utilization_ratio"], ghost["processes"]) == (1.0, 0)
    assert float(ghost["power_watts"]) < 80  # type: ignore[arg-type]


def wait(events: Any, milliseconds: int = 1) -> tuple[int, int] | None:
    try:
        data = pynvml.nvmlEventSetWait_v2(events, milliseconds)
    except pynvml.NVMLError_Timeout:
        return None
    return pynvml.nvmlDeviceGetIndex(data.device), data.eventData


def test_events_arrive_once_and_only_after_registration() -> None:
    """Nothing is replayed; what comes carries the device and the Xid; what is not registered stays away."""
    with node() as world:
        world.inject("xid", 1, {"code": 31})
        events = pynvml.nvmlEventSetCreate()
        for index in (1, 2):
            pynvml.nvmlDeviceRegisterEvents(handle_of(index)[0], pynvml.nvmlEventTypeXidCriticalError, events)
        assert wait(events) is None
        for gpu, code in ((0, 13), (2, 48), (1, 79)):
            world.inject("xid", gpu, {"code": code})
        assert [wait(events), wait(events), wait(events)] == [(2, 48), (1, 79), None]
        pynvml.nvmlEventSetFree(events)


def test_events_that_are_not_offered_cannot_be_registered() -> None:
    """NOT_SUPPORTED for the whole mask, as the driver does it."""
    with node("rtx4090"):
        handle = handle_of(0)[0]
        assert pynvml.nvmlDeviceGetSupportedEventTypes(handle) == pynvml.nvmlEventTypeXidCriticalError
        events = pynvml.nvmlEventSetCreate()
        with pytest.raises(pynvml.NVMLError_NotSupported):
            pynvml.nvmlDeviceRegisterEvents(handle, 0x8 | 0x2, events)


def test_a_driver_reload_ends_the_session() -> None:
    """Old handles and sets are dead, init says DRIVER_NOT_LOADED meanwhile, and then all is well again."""
    with node() as world:
        handle = handle_of(0)[0]
        world.inject("driver_reload", options={"seconds": 2})
        assert read_lane(handle, Lane.FAST, GpuMemory()) == LaneResult(fault=1, where="nvmlDeviceGetTemperatureV")
        close_session()
        assert open_session().code == 9
        world.advance(2.0)
        assert open_session().code == 0
        assert read_lane(handle, Lane.FAST, GpuMemory()).fault == 1
        assert read(0)["power_watts"] is not Missing.UNKNOWN


def test_lost_access_is_a_session_that_does_not_open() -> None:
    """UNKNOWN on init, as in a container whose device rules went."""
    with library(SimLibrary(InProcess(World(products()["t4"], 1)))) as _:
        world = pynvml.nvmlLib.source.world
        world.inject("access_lost")
        assert open_session().code == 999
        world.clear("access_lost")
        assert open_session().code == 0


def test_a_missing_gpu_is_not_counted() -> None:
    """A new session lists the rest, and their indices close up; one that is open keeps the numbers it began with."""
    with node() as world:
        world.inject("missing", 0)
        assert pynvml.nvmlDeviceGetCount() == 4
        pynvml.nvmlShutdown()
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetCount() == 3
        assert identify(handle_of(0)[0], GpuMemory()).bdf == "0000:21:00.0"  # type: ignore[union-attr]
