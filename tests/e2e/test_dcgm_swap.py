"""A daemon in dcgm-exporter's place: its counters file, its jobs, its name for the host, and reloads."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from support.daemonproc import DaemonProcess, Scrape, wait_for

TEMP = "DCGM_FI_DEV_GPU_TEMP"


def start(tmp_path: Path, counters: str = "", **environ: str) -> tuple[DaemonProcess, Path]:
    file = tmp_path / "counters.csv"
    file.write_text(counters or f"{TEMP}, gauge, temperature\nDCGM_FI_DRIVER_VERSION, label, driver\n")
    (tmp_path / "jobs").mkdir()
    config = (
        "[exposition]\nnative = false\ndcgm = true\n"
        f'dcgm_counters = "{file}"\ndcgm_hpc_job_mapping_dir = "{tmp_path / "jobs"}"\n'
    )
    daemon = DaemonProcess(tmp_path / "node", "--sim", "rtx4090x2", config=config, environ=environ)
    return daemon.start(), file


def scraped(daemon: DaemonProcess, name: str, **labels: str) -> Scrape | None:
    scrape = daemon.scrape()
    return scrape if scrape.values(name, **labels) else None


def test_counters_jobs_and_reloads(tmp_path: Path) -> None:
    """A good file is taken over whole, a bad one not at all; jobs come and go with their files."""
    daemon, file = start(tmp_path, NODE_NAME="node-a")
    with daemon:
        first = wait_for(lambda: scraped(daemon, TEMP, gpu="1"), 10, "a temperature")
        assert set(first.samples) == {TEMP}
        assert len(first.values(TEMP, Hostname="node-a")) == 2
        assert daemon.get("/health") == (200, b"OK")

        (tmp_path / "jobs" / "1").write_text("4711\n")
        wait_for(lambda: scraped(daemon, TEMP, gpu="1", hpc_job="4711"), 5, "the job's label")
        (tmp_path / "jobs" / "1").unlink()
        wait_for(lambda: not scraped(daemon, TEMP, hpc_job="4711"), 5, "the label gone with its file")

        file.write_text(f"{TEMP}, gauge, temperature\nDCGM_FI_DEV_NOT_A_FIELD, gauge, x\n")
        os.kill(daemon.pid, signal.SIGHUP)
        wait_for(lambda: "counters.csv line 2" in daemon.log.read_text(), 5, "the mistake in the log")
        assert set(daemon.scrape().samples) == {TEMP}

        file.write_text("dcgm_gpu_temp, gauge, temperature\n")
        for _ in range(5):
            os.kill(daemon.pid, signal.SIGHUP)
        last = wait_for(lambda: scraped(daemon, "dcgm_gpu_temp"), 5, "the new name")
        assert set(last.samples) == {"dcgm_gpu_temp"}
