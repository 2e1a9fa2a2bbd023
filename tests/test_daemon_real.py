"""The daemon on real parts: the kernel log of this machine, a shared library found the ordinary way."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.daemonproc import DaemonProcess, wait_for

pytestmark = pytest.mark.real

XIDS = "gpuwarden_gpu_xid_errors_total"
TEMPERATURE = "gpuwarden_gpu_temperature_celsius"


@pytest.fixture
def kernel_says() -> Iterator[Callable[[str], None]]:
    """Write lines into the real kernel log, with no limit to their rate meanwhile."""
    limit = Path("/proc/sys/kernel/printk_devkmsg")
    previous = limit.read_text(encoding="ascii")
    limit.write_text("on\n", encoding="ascii")
    descriptor = os.open("/dev/kmsg", os.O_WRONLY)
    try:
        yield lambda text: (os.write(descriptor, f"<3>{text}\n".encode()), None)[1]
    finally:
        os.close(descriptor)
        limit.write_text(previous, encoding="ascii")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A libnvidia-ml.so.1 with two GPUs."""
    made = tmp_path_factory.mktemp("library") / "libnvidia-ml.so.1"
    source = Path(__file__).parent / "support" / "fakenvml.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", made, source], check=True, timeout=60)
    return made


def test_a_real_line_is_counted_within_a_second_and_once_though_nvml_tells_it_too(
    tmp_path: Path, kernel_says: Callable[[str], None]
) -> None:
    """On the right GPU, whichever of the two comes first."""
    with DaemonProcess(tmp_path, "--sim", "h100x8", "--kmsg", "/dev/kmsg") as daemon:
        wait_for(lambda: len(daemon.scrape().values(TEMPERATURE, sensor="core")) == 8, 10, "eight temperatures")
        infos = [dict(labels) for labels in daemon.scrape().samples["gpuwarden_gpu_info"]]
        address = next(info["pci_bus_id"] for info in infos if info["gpu"] == "5").rpartition(".")[0]

        def total(code: int, **labels: str) -> float:
            return sum(daemon.scrape().values(XIDS, xid=str(code), **labels))

        def line(code: int) -> None:
            kernel_says(f"NVRM: Xid (PCI:{address}): {code}, pid=1, name=test, said for a test")

        already = {code: total(code) for code in (13, 62, 64, 119)}  # of earlier runs: the log is the machine's

        def nvml_is_heard() -> bool:
            daemon.inject("xid", 5, code=13)
            return total(13) > already[13]

        wait_for(nvml_is_heard, 5, "NVML's events")
        written = time.monotonic()
        line(62)
        wait_for(lambda: total(62, gpu="5") == already[62] + 1, 1, "the line to be counted")
        assert time.monotonic() - written < 1
        daemon.inject("xid", 5, code=62)  # its own kernel line is in the simulated log, which nobody reads here
        daemon.inject("xid", 5, code=64)
        wait_for(lambda: total(64, gpu="5") == already[64] + 1, 2, "NVML's word")
        line(64)
        line(119)
        wait_for(lambda: total(119) == already[119] + 1, 1, "the last line")
        assert (total(62), total(64)) == (already[62] + 1, already[64] + 1)


def test_after_a_restart_the_real_log_is_counted_no_second_time(
    tmp_path: Path, kernel_says: Callable[[str], None]
) -> None:
    """What came before the stop and while nobody was here is each counted once."""
    address = f"0000:{os.getpid() % 200 + 16:02x}:1f"
    uuid = f"PCI-{address}"
    line = f"NVRM: Xid (PCI:{address}): 48, pid=1, name=test, said for a test"
    daemon = DaemonProcess(tmp_path)

    def total() -> float:
        return sum(daemon.scrape().values(XIDS, xid="48", uuid=uuid))

    with daemon:
        already = total()
        kernel_says(line)
        wait_for(lambda: total() == already + 1, 2, "the line to be counted")
        daemon.stop()
    kernel_says(line)
    with daemon.start():
        assert total() == already + 2
        daemon.stop()
    with daemon.start():
        assert total() == already + 2


def test_a_driver_that_comes_later_is_picked_up_and_its_absence_said_once(tmp_path: Path, library: Path) -> None:
    """No driver: the daemon is up and says so once; when the library appears its GPUs do."""
    folder = tmp_path / "lib"
    folder.mkdir()
    with DaemonProcess(tmp_path / "d", environ={"LD_LIBRARY_PATH": str(folder)}) as daemon:
        wait_for(lambda: b"nvml.not_opened" in daemon.log.read_bytes(), 5, "the driver's absence to be said")
        assert daemon.scrape().value("gpuwarden_nvml_up") == 0
        assert daemon.get("/healthz")[0] == 200
        time.sleep(6)  # over the next attempt, which is to be silent
        assert daemon.log.read_bytes().count(b"nvml.not_opened") == 1
        (folder / library.name).symlink_to(library)
        wait_for(lambda: daemon.scrape().values(TEMPERATURE, sensor="core"), 10, "the driver's GPUs")
        assert daemon.scrape().value("gpuwarden_nvml_up") == 1
