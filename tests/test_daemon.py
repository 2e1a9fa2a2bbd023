"""The daemon as a whole, on a simulated node, through the same door an operator uses."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemonproc import DaemonProcess, Scrape, bound, wait_for

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
    assert took < bound(2.0), f"{took:.2f} s"


@pytest.mark.real
def test_promtool_has_nothing_to_say(daemon: DaemonProcess) -> None:
    """What a running daemon serves, not only what the golden files hold."""
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=daemon.get("/metrics")[1], capture_output=True, check=False, timeout=20
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def named(scrape: Scrape, gpu: str) -> None:
    """Check what stays of a GPU that hangs, and what does not: nothing looks healthy, nothing is 0."""
    assert scrape.values("gpuwarden_gpu_info", gpu=gpu) == [1]
    assert scrape.value("gpuwarden_gpu_health", gpu=gpu, state="healthy") == 0
    assert scrape.values("gpuwarden_gpu_xid_errors_total", gpu=gpu, xid="79") == [0]
    assert scrape.value("gpuwarden_gpu_reading_status", gpu=gpu, reading="core_celsius", status="timed_out") == 1
    assert not scrape.values("gpuwarden_gpu_power_watts", gpu=gpu)


def test_a_gpu_hung_in_one_call_hides_no_sibling(daemon: DaemonProcess) -> None:
    """The hung GPU is named, its readings go, its info and counters stay; siblings stay fresh."""
    daemon.inject("hung", 3, call="PowerUsage")
    hung = wait_for(lambda: daemon.findings("presence.nvml_blocked"), 1 + 2 + 1, "presence.nvml_blocked")
    assert [f["gpu"] for f in hung] == ["3"]

    def gone() -> Scrape | None:
        scrape = daemon.scrape()
        assert siblings_are_fresh(scrape, "3")
        return scrape if not scrape.values(TEMPERATURE, gpu="3", sensor="core") else None

    named(wait_for(gone, 2 * 1 + 1 + 1, "the hung GPU's readings to go"), "3")
    daemon.inject("hung", 3, call="PowerUsage", clear=True)
    wait_for(lambda: daemon.scrape().values(TEMPERATURE, gpu="3", sensor="core"), 10, "the GPU to come back")
    wait_for(lambda: not daemon.findings("presence.nvml_blocked"), 10, "the finding to clear")


def test_who_holds_each_gpu_is_known(daemon: DaemonProcess) -> None:
    """Seven cards work and one is idle: each job is named through /proc, the idle card has nobody."""

    def named() -> Scrape | None:
        scrape = daemon.scrape()
        return scrape if len(scrape.values("gpuwarden_gpu_workloads")) == 8 else None

    scrape = wait_for(named, 10, "the holders of eight GPUs")
    assert scrape.value("gpuwarden_workload_info", gpu="0", source="slurm", job="4200") == 1
    assert sorted(scrape.values("gpuwarden_gpu_workloads")) == [0] + [1] * 7
    status = daemon.json("/api/v1/status")
    assert status["gpus"][1]["workloads"][0]["job"] == "4201"
    assert status["gpus"][7]["workloads"] == []


def test_all_gpus_hung_leaves_healthz_at_200_and_scrapes_fast(daemon: DaemonProcess) -> None:
    """Every GPU is named and shown as one alone is; /metrics comes from memory, /healthz follows the main loop only."""
    times: list[float] = []

    def gone() -> Scrape | None:
        assert daemon.get("/healthz")[0] == 200
        begun = time.monotonic()
        status, body = daemon.get("/metrics")
        times.append(time.monotonic() - begun)
        assert status == 200
        scrape = Scrape(body.decode(), 0.0)
        return scrape if not scrape.values(TEMPERATURE, sensor="core") else None

    daemon.inject("hung")
    scrape = wait_for(gone, 2 * 1 + 1 + 2, "all readings to go")
    wait_for(lambda: daemon.findings("presence.nvml_blocked"), 4, "presence.nvml_blocked")
    for gpu in range(8):
        named(scrape, str(gpu))
    assert len(times) > 5
    assert sorted(times)[len(times) * 9 // 10] < 0.05
    assert max(times) < 0.25  # 50 ms on a machine that is not running a test suite
    daemon.inject("hung", clear=True)
    wait_for(lambda: len(daemon.scrape().values(TEMPERATURE, sensor="core")) == 8, 15, "all GPUs to come back")


@pytest.mark.parametrize("how", ["killed", "segfault"])
def test_a_worker_that_dies_is_back_within_five_seconds(daemon: DaemonProcess, how: str) -> None:
    """It is replaced, counted by reason, and a finding says so."""
    first = wait_for(daemon.worker_pid, 2, "a worker")
    begun = time.monotonic()
    if how == "killed":
        os.kill(first, signal.SIGKILL)
    else:
        daemon.inject("crash", 0)
    wait_for(lambda: daemon.worker_pid() not in (0, first), 5, "a new worker")
    wait_for(lambda: siblings_are_fresh(daemon.scrape(), ""), 5 - (time.monotonic() - begun), "fresh samples of all")
    scrape = daemon.scrape()
    assert scrape.value("gpuwarden_nvml_worker_restarts_total", reason="crashed") == 1
    wait_for(
        lambda: [e for e in daemon.json("/api/v1/events") if e["name"] == "presence.nvml_crashed"], 3, "the incident"
    )


@pytest.mark.parametrize("handle_code", [15, 999], ids=["GPU_IS_LOST", "UNKNOWN on handle creation"])
def test_a_lost_gpu_is_named_and_nothing_is_zero(daemon: DaemonProcess, handle_code: int) -> None:
    """Finding within two seconds, its readings absent rather than 0, the others untouched."""
    daemon.inject("lost", 5, handle_code=handle_code)
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
    """644245923 C, 0 W under load and a clock of 4294967295 MHz: a reading status and a rejected count, no sample."""
    nonsense = {"temperature": "core_celsius", "power": "power_watts", "clock": "graphics_clock_hertz"}
    for gpu, raw in enumerate(nonsense):
        daemon.inject("implausible", gpu, reading=raw)

    def shown() -> Scrape | None:
        scrape = daemon.scrape()
        status = "gpuwarden_gpu_reading_status"
        found = [
            scrape.value(status, gpu=str(gpu), reading=reading, status="implausible")
            for gpu, reading in enumerate(nonsense.values())
        ]
        return scrape if found == [1, 1, 1] else None

    scrape = wait_for(shown, 5, "three statuses")
    assert scrape.values(TEMPERATURE, gpu="0", sensor="core") == []
    assert scrape.values("gpuwarden_gpu_power_watts", gpu="1") == []
    assert scrape.values("gpuwarden_gpu_clock_hertz", gpu="2", domain="graphics") == []
    for gpu, reading in enumerate(nonsense.values()):
        assert (scrape.value("gpuwarden_gpu_readings_rejected_total", gpu=str(gpu), reading=reading) or 0) > 0


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


QUICK = "".join(f'[checks."links.{kind}"]\nhold_seconds = 0.0\n' for kind in ("fabric_manager_down", "ib_port_down"))
QUICK += '[checks."links.fabric_not_ready"]\nboot_grace_seconds = 0.0\n'  # this machine may just have booted


def test_what_links_depend_on_is_watched(tmp_path: Path) -> None:
    """Service units, InfiniBand ports and the ports above a GPU have their sources, and each finding its evidence."""
    scenario = tmp_path / "links.toml"
    scenario.write_text(
        'version = 1\nproduct = "h100x2"\n'
        '[[at]]\nseconds = 0.0\nfault = "service_stopped"\n'
        '[[at]]\nseconds = 3.0\nfault = "ib_port_down"\noptions = { device = "mlx5_1" }\n'
        '[[at]]\nseconds = 3.0\nfault = "aer"\ngpu = 1\noptions = { at = "port" }\n'
    )
    with DaemonProcess(tmp_path, "--sim", str(scenario), config=QUICK) as running:
        wait_for(lambda: running.findings("links.fabric_manager_down"), 10, "the fabric manager")
        wait_for(lambda: running.findings("links.ib_port_down"), 20, "the port")
        assert [found["gpu"] for found in running.findings("links.pcie_aer")] == ["1"]


def test_a_sleeping_gpu_is_not_woken(tmp_path: Path) -> None:
    """It is there, asleep, with no readings and no finding, beside siblings that are read; awake, it is read too."""
    scenario = tmp_path / "asleep.toml"
    scenario.write_text(
        'version = 1\nproduct = "rtx4090x3"\n[[load]]\npoint = "idle"\n'
        '[[at]]\nseconds = 0.0\nfault = "suspended"\ngpu = 1\n'
    )
    with DaemonProcess(tmp_path, "--sim", str(scenario)) as running:
        wait_for(lambda: len(running.scrape().values(TEMPERATURE, sensor="core")) == 2, 10, "two temperatures")
        shown = wait_for(lambda: len(found := running.json("/api/v1/status")["gpus"]) == 3 and found, 10, "three GPUs")
        assert sorted(gpu["presence"] for gpu in shown) == ["answering", "answering", "asleep"]
        wait_for(lambda: running.json("/api/v1/status")["health"] == "healthy", 5, "a healthy host")
        running.inject("suspended", 1, clear=True)
        wait_for(lambda: len(running.scrape().values(TEMPERATURE, sensor="core")) == 3, 10, "the third to be read")
