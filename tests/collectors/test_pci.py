"""What sysfs says about GPUs, and that neither garbage nor a hang in it says anything false."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuwarden.collectors.pci import PciScanner, scan
from gpuwarden.model.observation import AnyObservation, PciScanned, Stamp

BDF = "0000:3b:00.0"
FILES = {
    "vendor": "0x10de",
    "device": "0x2684",
    "class": "0x030000",
    "subsystem_vendor": "0x1043",
    "subsystem_device": "0x8897",
    "current_link_speed": "2.5 GT/s PCIe",
    "current_link_width": "8",
    "max_link_speed": "16.0 GT/s PCIe",
    "max_link_width": "16",
    "aer_dev_correctable": "RxErr 3\nBadTLP 0\nTOTAL_ERR_COR 3",
    "aer_dev_nonfatal": "Undefined 0\nTOTAL_ERR_NONFATAL 1",
    "aer_dev_fatal": "Undefined 0\nTOTAL_ERR_FATAL 0",
    "power/runtime_status": "active",
}


def device(root: Path, bdf: str = BDF, config: bytes = b"\xde\x10\x84\x26", **files: str | None) -> Path:
    """Make one GPU in a sysfs tree; None leaves a file out. Returns its folder."""
    folder = root / "bus" / "pci" / "devices" / bdf
    (folder / "power").mkdir(parents=True)
    for name, text in (FILES | {key.replace("__", "/"): value for key, value in files.items()}).items():
        if text is not None:
            (folder / name).write_text(text + "\n", encoding="utf-8")
    (folder / "config").write_bytes(config)
    (folder / "driver").symlink_to(root / "bus" / "pci" / "drivers" / "nvidia")
    return folder


def test_a_gpu_is_described(tmp_path: Path) -> None:
    """Identity, driver, slot, link as it is and could be, AER totals, and the loaded module's version."""
    device(tmp_path)
    slot = tmp_path / "bus" / "pci" / "slots" / "7"
    slot.mkdir(parents=True)
    (slot / "address").write_text("0000:3b:00\n", encoding="utf-8")
    module = tmp_path / "module" / "nvidia"
    module.mkdir(parents=True)
    (module / "version").write_text("580.95.05\n", encoding="utf-8")
    found = scan(tmp_path)
    assert found.readable
    assert found.module_version == "580.95.05"
    (gpu,) = found.devices
    assert (gpu.bdf, gpu.driver, gpu.slot) == (BDF, "nvidia", "7")
    assert (gpu.device_id, gpu.subsystem_id) == (0x2684, 0x88971043)
    assert (gpu.link_generation, gpu.link_generation_max) == (1, 4)
    assert (gpu.link_width_lanes, gpu.link_width_max_lanes) == (8, 16)
    assert (gpu.aer_correctable, gpu.aer_nonfatal, gpu.aer_fatal) == (3, 1, 0)
    assert (gpu.runtime_suspended, gpu.config_readable) == (False, True)


def test_only_display_functions_of_nvidia_are_gpus(tmp_path: Path) -> None:
    """A card's sound function, another maker's card and a switch are no GPUs; a 3D controller is. Sorted by BDF."""
    device(tmp_path, "0000:c1:00.0", **{"class": "0x030200"})
    device(tmp_path, "0000:3b:00.1", **{"class": "0x040300"})
    device(tmp_path, "0000:04:00.0", vendor="0x1002")
    device(tmp_path, "0000:05:00.0", **{"class": "0x068000"})
    device(tmp_path, "0000:3b:00.0")
    assert [gpu.bdf for gpu in scan(tmp_path).devices] == ["0000:3b:00.0", "0000:c1:00.0"]


def test_a_gpu_that_left_the_bus_answers_all_ones(tmp_path: Path) -> None:
    """Registers of a device that is gone are no link figures; what the kernel counted before stays."""
    device(tmp_path, config=b"\xff" * 64, current_link_width="63", current_link_speed="Unknown")
    (gpu,) = scan(tmp_path).devices
    assert not gpu.config_readable
    assert (gpu.link_generation, gpu.link_width_lanes, gpu.link_width_max_lanes) == (None, None, None)
    assert gpu.aer_correctable == 3


def test_a_sleeping_gpu_is_not_woken(tmp_path: Path) -> None:
    """Nothing that reads configuration space is opened while the device sleeps: a read would wake it."""
    folder = device(tmp_path, power__runtime_status="suspended")
    touching = ("config", "current_link_speed", "current_link_width", "max_link_speed", "max_link_width")
    for name in touching:
        (folder / name).unlink()
        os.mkfifo(folder / name)  # opening one of these would hang this test
    (gpu,) = scan(tmp_path).devices
    assert gpu.runtime_suspended
    assert gpu.config_readable
    assert gpu.link_width_lanes is None


@pytest.mark.parametrize("driver", ["vfio-pci", "nouveau", ""])
def test_who_drives_a_gpu(tmp_path: Path, driver: str) -> None:
    """The driver bound to it, or none."""
    link = device(tmp_path) / "driver"
    link.unlink()
    if driver:
        link.symlink_to(f"../../../../bus/pci/drivers/{driver}")
    assert scan(tmp_path).devices[0].driver == driver


@pytest.mark.parametrize(
    ("speed", "generation"),
    [
        pytest.param("2.5 GT/s", 1, id="old-kernel"),
        pytest.param("5 GT/s PCIe", 2, id="gen2"),
        pytest.param("8 GT/s", 3, id="gen3-old-kernel"),
        pytest.param("8.0 GT/s PCIe", 3, id="gen3"),
        pytest.param("32.0 GT/s PCIe", 5, id="gen5"),
        pytest.param("64.0 GT/s PCIe", 6, id="gen6"),
        pytest.param("Unknown", None, id="unknown"),
        pytest.param("", None, id="empty"),
        pytest.param(None, None, id="missing"),
    ],
)
def test_link_speed_is_told_as_generation(tmp_path: Path, speed: str | None, generation: int | None) -> None:
    """What is not a known speed is unknown, never generation 0."""
    device(tmp_path, current_link_speed=speed)
    assert scan(tmp_path).devices[0].link_generation == generation


def test_no_sysfs_is_not_an_empty_bus(tmp_path: Path) -> None:
    """Without the folder nothing is known; with an empty one there are no devices."""
    assert scan(tmp_path) == (False, (), "")
    (tmp_path / "bus" / "pci" / "devices").mkdir(parents=True)
    assert scan(tmp_path) == (True, (), "")


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([name for name in FILES if name not in ("vendor", "class")]), content=st.binary(max_size=40)
)
def test_garbage_in_a_file_is_an_unknown_value(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    """Whatever a file holds, the GPU is there and its other values stay."""
    root = tmp_path_factory.mktemp("sys")
    (device(root) / name).write_bytes(content)
    (gpu,) = scan(root).devices
    assert gpu.bdf == BDF
    assert gpu.link_width_lanes is None or gpu.link_width_lanes <= 32


def stamp() -> Stamp:
    """Return the present moment."""
    return Stamp("boot", time.monotonic(), time.time())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition. Raises: TimeoutError when it does not come true."""
    async with asyncio.timeout(5.0):
        while not condition():  # noqa: ASYNC110 (the condition is about another thread)
            await asyncio.sleep(0.005)


@asynccontextmanager
async def scanning(root: Path, **options: float) -> AsyncIterator[list[PciScanned]]:
    """Keep a scanner running over `root`; yields what it emitted."""
    heard: list[AnyObservation] = []
    task = asyncio.create_task(PciScanner(heard.append, stamp, root=root, **options).run())
    try:
        yield cast(list[PciScanned], heard)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_removed_gpu_is_seen_within_a_period(tmp_path: Path) -> None:
    """The first scan is made at once, and each period brings another."""
    folder = device(tmp_path)
    async with scanning(tmp_path, period_seconds=0.05) as heard:
        await until(lambda: bool(heard))
        assert [gpu.bdf for gpu in heard[0].devices] == [BDF]
        folder.rename(tmp_path / "gone")
        await until(lambda: heard[-1].devices == ())
    assert all(told.readable for told in heard)


async def test_a_scan_that_hangs_says_cannot_tell_and_is_not_joined_by_another(tmp_path: Path) -> None:
    """A late scan is told once as unreadable; the loop goes on, no thread piles up, and its end is picked up."""
    version = tmp_path / "module" / "nvidia" / "version"
    version.parent.mkdir(parents=True)
    version.write_text("580.95.05\n", encoding="utf-8")
    folder = device(tmp_path)
    async with scanning(tmp_path, period_seconds=0.02, deadline_seconds=0.1) as heard:
        await until(lambda: bool(heard))
        (folder / "vendor").unlink()
        os.mkfifo(folder / "vendor")
        await until(lambda: not heard[-1].readable)
        assert heard[-1].module_version == "580.95.05"
        told = len(heard)
        await asyncio.sleep(0.3)
        assert len(heard) == told
        assert sum(thread.name == "pci-scan" for thread in threading.enumerate()) == 1
        with (folder / "vendor").open("w", encoding="utf-8") as released:
            (folder / "vendor").rename(folder / "was-vendor")
            (folder / "vendor").write_text("0x10de\n", encoding="utf-8")
            released.write("0x10de\n")
        await until(lambda: heard[-1].readable)
        assert [gpu.bdf for gpu in heard[-1].devices] == [BDF]


async def test_a_fault_of_the_scan_itself_reaches_the_supervisor() -> None:
    """An error nobody expected ends the source with that error instead of leaving it silent."""
    scanner = PciScanner([].append, stamp, root=cast(Path, None))
    with pytest.raises(TypeError):
        await asyncio.wait_for(scanner.run(), 5.0)


def test_the_ports_above_a_gpu_are_found_by_where_its_folder_lies(tmp_path: Path) -> None:
    """Root port, switch port, GPU: each with its own counters; a port that keeps none has no numbers."""
    folder = device(tmp_path)
    root_port, switch_port = "0000:00:01.0", "0000:3a:02.0"
    place = tmp_path / "devices" / "pci0000:00" / root_port / switch_port
    place.mkdir(parents=True)
    folder.rename(place / BDF)
    for bdf, target in ((root_port, place.parent), (switch_port, place), (BDF, place / BDF)):
        (folder.parent / bdf).symlink_to(target)
    (place.parent / "aer_dev_nonfatal").write_text("Undefined 0\nTOTAL_ERR_NONFATAL 7\n", encoding="utf-8")
    (gpu,) = scan(tmp_path).devices
    assert [(port.bdf, port.aer_nonfatal) for port in gpu.upstream] == [(root_port, 7), (switch_port, None)]


@pytest.mark.real
def test_the_real_bus_can_be_scanned() -> None:
    """sysfs of a running machine is readable, and its devices are of the form everything else expects."""
    found = scan(Path("/sys"))
    assert found.readable
    assert all(gpu.bdf.count(":") == 2 and "." in gpu.bdf for gpu in found.devices)
