"""Suspended GPUs are found in sysfs and left asleep by the worker's threads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NoReturn

import pytest

from gpuwarden.nvml.sleepers import addresses, driven
from gpuwarden.nvml.threads import GpuThread
from gpuwarden.nvml.wire import PROTOCOL, Asleep, Fault, FromWorker, Start
from support.fakenvml import FakeLibrary, library

FIRST, SECOND, SOUND = "0000:01:00.0", "0000:02:00.0", "0000:02:00.1"


def device(root: Path, bdf: str, status: str = "active", kind: str = "0x030000") -> Path:
    folder = root / "bus/pci/devices" / bdf
    (folder / "power").mkdir(parents=True)
    (folder / "vendor").write_text("0x10de\n")
    (folder / "class").write_text(kind + "\n")
    (folder / "power/runtime_status").write_text(status + "\n")
    driver = root / "bus/pci/drivers/nvidia"
    driver.mkdir(parents=True, exist_ok=True)
    (driver / bdf).symlink_to(folder)
    return folder


def test_addresses_are_given_only_where_somebody_sleeps(tmp_path: Path) -> None:
    """In the order of the bus, GPUs only; with all awake, or not as many as NVML counts, indices are used as ever."""
    device(tmp_path, SECOND)
    device(tmp_path, FIRST)
    device(tmp_path, SOUND, kind="0x040300")
    (tmp_path / "bus/pci/drivers/nvidia/module").mkdir()
    assert driven(tmp_path) == (FIRST, SECOND)
    assert addresses(tmp_path, 2) == ()
    (tmp_path / "bus/pci/devices" / FIRST / "power/runtime_status").write_text("suspended\n")
    assert addresses(tmp_path, 2) == (FIRST, SECOND)
    assert addresses(tmp_path, 3) == ()
    assert driven(tmp_path / "nowhere") == ()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_sleeping_gpu_is_not_asked_for_before_it_wakes(tmp_path: Path) -> None:
    """No call of NVML at all while it sleeps; then it is opened by its address."""
    folder = device(tmp_path, FIRST, "suspended")
    told: list[FromWorker] = []
    heard = threading.Event()
    fake = FakeLibrary({"nvmlDeviceGetHandleByPciBusId_v2": 9})

    def tell(message: FromWorker) -> None:
        told.append(message)
        heard.set()

    def ended(_code: int) -> NoReturn:
        raise SystemExit  # the worker ends its process; here only the thread

    start = Start(protocol=PROTOCOL, fast=1.0, normal=10.0, slow=60.0, pcie=10.0)
    with library(fake):
        thread = GpuThread(0, start, tell, lambda *_: None, ended, address=FIRST, sysfs=tmp_path)
        thread.start()
        assert heard.wait(10)
        assert told == [Asleep(index=0, bdf=FIRST)]
        assert fake.calls == []
        heard.clear()
        (folder / "power/runtime_status").write_text("active\n")
        thread.quiet(0.0)  # has it look at once
        thread.join(10)
        assert not thread.is_alive()
    assert isinstance(told[1], Fault)
    assert fake.calls[0] == "nvmlDeviceGetHandleByPciBusId_v2"
