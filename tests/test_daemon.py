"""The daemon as a whole, on a simulated node, through the same door an operator uses."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemonproc import DaemonProcess, Scrape, wait_for

TEMPERATURE = "gpuwarden_gpu_temperature_celsius"
SAMPLED = "gpuwarden_gpu_last_sample_timestamp_seconds"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon on eight H100s with a short deadline, all of them answering."""
    with DaemonProcess(tmp_path, "--sim", "h100x8", config="[poll]\ndeadline_seconds = 1.0\n") as running:
        wait_for(lambda: len(running.scrape().values(TEMPERATURE, sensor="core")) == 8, 10, "eight temperatures")
        yield running


def siblings_are_fresh(scrape: Scrape, hung: str) -> bool:
    """Return whether every other GPU was sampled less than 3 s ago."""
    now = time.time()
    ages = {dict(labels)["gpu"]: now - value for labels, value in scrape.samples[SAMPLED].items()}
    return len(ages) == 8 and all(age < 3 for gpu, age in ages.items() if gpu != hung)


def test_eight_gpus_are_shown_within_two_seconds(tmp_path: Path) -> None:
    """From the start of the process to a scrape with eight GPUs: at most two seconds on an idle machine."""
    begun = time.monotonic()
    with DaemonProcess(tmp_path, "--sim", "h100x8") as running:
        wait_for(lambda: len(running.scrape().values(TEMPERATURE, sensor="core")) == 8, 10, "eight temperatures")
        took = time.monotonic() - begun
        assert running.scrape().value("gpuwarden_nvml_up") == 1
    assert took < (2.0 if not os.environ.get("CI") else 4.0), f"{took:.2f} s"


def test_a_hung_gpu_hides_no_sibling(daemon: DaemonProcess) -> None:
    """The hung GPU is named, its readings go, its info and counters stay; siblings stay fresh, scrapes stay fast."""
    daemon.inject("hung", 3)
    hung = wait_for(lambda: daemon.findings("presence.nvml_blocked"), 1 + 2 + 1, "presence.nvml_blocked")
    assert [f["gpu"] for f in hung] == ["3"]

    def gone() -> Scrape | None:
        scrape = daemon.scrape()
        assert siblings_are_fresh(scrape, "3")
        assert scrape.seconds < 0.25
        return scrape if not scrape.values(TEMPERATURE, gpu="3", sensor="core") else None

    scrape = wait_for(gone, 2 * 1 + 1 + 2, "the hung GPU's readings to go")
    assert scrape.values("gpuwarden_gpu_info", gpu="3") == [1]
    assert scrape.value("gpuwarden_gpu_health", gpu="3", state="healthy") == 0
    assert scrape.values("gpuwarden_gpu_xid_errors_total", gpu="3", xid="79") == [0]
    assert scrape.value("gpuwarden_gpu_reading_status", gpu="3", reading="core_celsius", status="timed_out") == 1
    assert not scrape.values("gpuwarden_gpu_power_watts", gpu="3")
    daemon.inject("hung", 3, clear=True)
    wait_for(lambda: daemon.scrape().values(TEMPERATURE, gpu="3", sensor="core"), 10, "the GPU to come back")
    wait_for(lambda: not daemon.findings("presence.nvml_blocked"), 10, "the finding to clear")


def test_all_gpus_hung_leaves_healthz_at_200(daemon: DaemonProcess) -> None:
    """When every call hangs the worker is replaced, the finding names it, and /healthz follows the main loop only."""
    daemon.inject("hung")
    wait_for(lambda: daemon.findings("presence.nvml_blocked"), 8, "presence.nvml_blocked")
    assert daemon.get("/healthz")[0] == 200
    assert daemon.scrape().seconds < 0.25
    daemon.inject("hung", clear=True)
    wait_for(lambda: len(daemon.scrape().values(TEMPERATURE, sensor="core")) == 8, 15, "all GPUs to come back")


def test_a_killed_worker_is_back_within_five_seconds(daemon: DaemonProcess) -> None:
    """A worker that dies is replaced, counted by reason, and a finding says so."""
    first = wait_for(daemon.worker_pid, 2, "a worker")
    os.kill(first, signal.SIGKILL)
    begun = time.monotonic()
    wait_for(lambda: daemon.worker_pid() not in (0, first), 5, "a new worker")
    wait_for(lambda: siblings_are_fresh(daemon.scrape(), ""), 5 - (time.monotonic() - begun), "fresh samples of all")
    scrape = daemon.scrape()
    assert scrape.value("gpuwarden_nvml_worker_restarts_total", reason="crashed") == 1
    wait_for(
        lambda: [e for e in daemon.json("/api/v1/events") if e["name"] == "presence.nvml_crashed"], 3, "the incident"
    )


def test_a_lost_gpu_is_named_and_nothing_is_zero(daemon: DaemonProcess) -> None:
    """GPU_IS_LOST: finding within two seconds, its readings absent rather than 0, the others untouched."""
    daemon.inject("lost", 5)
    lost = wait_for(lambda: daemon.findings("presence.gpu_lost"), 2.5, "presence.gpu_lost")
    assert [f["gpu"] for f in lost] == ["5"]
    scrape = daemon.scrape()
    for name in (TEMPERATURE, "gpuwarden_gpu_power_watts", "gpuwarden_gpu_memory_bytes"):
        assert scrape.values(name, gpu="5") == []
        assert all(
            value > 0 for value in scrape.values(name, gpu="4", **({"sensor": "core"} if name == TEMPERATURE else {}))
        )
    assert len(scrape.values(TEMPERATURE, sensor="core")) == 7
    assert scrape.value("gpuwarden_gpu_health", gpu="5", state="unhealthy") == 1


def test_an_xid_seen_twice_is_counted_once(daemon: DaemonProcess) -> None:
    """A kernel line and the NVML event of the same Xid are one; it is counted in under a second on the right GPU."""
    daemon.inject("xid", 2, code=48)
    wait_for(
        lambda: daemon.scrape().values("gpuwarden_gpu_xid_errors_total", gpu="2", xid="48", source="driver") == [1],
        1.5,
        "the count",
    )
    until = time.monotonic() + 3  # the window in which the other source could still be counted
    while time.monotonic() < until:
        assert daemon.scrape().values("gpuwarden_gpu_xid_errors_total", xid="48", source="driver").count(1) == 1
        time.sleep(0.1)
    assert daemon.findings("xid.xid_48")


def test_implausible_readings_are_no_values(daemon: DaemonProcess) -> None:
    """A temperature of 644245923 C becomes a reading status and a rejected count, never a sample."""
    daemon.inject("implausible", 1)
    wait_for(
        lambda: daemon.scrape().values("gpuwarden_gpu_reading_status", gpu="1", status="implausible"), 5, "the status"
    )
    scrape = daemon.scrape()
    assert all(value < 200 for value in scrape.values(TEMPERATURE))
    assert sum(scrape.values("gpuwarden_gpu_readings_rejected_total", gpu="1")) > 0


def test_scrapes_stay_fast_while_a_gpu_hangs(daemon: DaemonProcess) -> None:
    """/metrics is served from memory: what the driver does cannot be seen in its latency."""
    times: list[float] = []
    done = threading.Event()

    def scraping() -> None:
        while not done.is_set():
            times.append(daemon.scrape().seconds)

    thread = threading.Thread(target=scraping)
    thread.start()
    daemon.inject("hung", 0)
    wait_for(lambda: daemon.findings("presence.nvml_blocked"), 6, "presence.nvml_blocked")
    done.set()
    thread.join()
    times.sort()
    assert len(times) > 20
    assert times[len(times) // 2] < 0.05


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_bounded_time(daemon: DaemonProcess, number: signal.Signals) -> None:
    """A stop takes seconds at most, leaves no child behind and exits 0."""
    worker = wait_for(daemon.worker_pid, 2, "a worker")
    assert daemon.stop(number) < 5
    assert daemon.process is not None
    assert daemon.process.returncode == 0
    wait_for(lambda: not Path(f"/proc/{worker}").exists(), 2, "the worker to be gone")
    wait_for(lambda: not (daemon.runtime / "status.sock").exists(), 1, "the socket to be gone")


def test_a_restart_counts_nothing_twice(tmp_path: Path) -> None:
    """What the journal has counted is neither read again from the log nor forgotten."""
    log = tmp_path / "kmsg"
    line = "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus."
    log.write_text(f"4,10,1000000,-;{line}\n")
    daemon = DaemonProcess(tmp_path / "d", "--kmsg", str(log))

    def total() -> float:
        return sum(
            sum(s.values()) for name, s in daemon.scrape().samples.items() if name == "gpuwarden_gpu_xid_errors_total"
        )

    with daemon:
        before = total()
        with log.open("a") as out:
            out.write(f"4,11,2000000,-;{line}\n")
        wait_for(lambda: total() == before + 1, 3, "the second line")
        daemon.stop()
    with daemon.start():
        assert total() == before + 1
        assert daemon.scrape().value("gpuwarden_kmsg_up") == 1


def test_a_restart_remembers_the_gpus_before_it_sees_them(tmp_path: Path) -> None:
    """The inventory is there from the first scrape on, also where this time no GPU answers."""
    daemon = DaemonProcess(tmp_path, "--sim", "h100x2")
    with daemon:
        wait_for(lambda: len(daemon.scrape().values(TEMPERATURE, sensor="core")) == 2, 10, "two temperatures")
        before = set(daemon.scrape().samples["gpuwarden_gpu_info"])
        daemon.stop()
    with daemon.start():
        assert {dict(labels)["uuid"] for labels in daemon.scrape().samples["gpuwarden_gpu_info"]} == {
            dict(labels)["uuid"] for labels in before
        }
