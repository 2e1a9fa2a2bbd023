"""The unit under the real systemd, as README installs it: what it may do, and that no driver can hold it up."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemonproc import Scrape, bound, wait_for
from support.systemdlab import SystemdLab

pytestmark = pytest.mark.real

SUPPORT = Path(__file__).parents[1] / "support"
DROP_IN = "/etc/systemd/system/gpuwarden.service.d/lab.conf"
ABANDONED = "/run/gpuwarden/worker.abandoned"
HANG = "/run/hang"
PROBE = """
import errno, json, os
def tried(path, flags):
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return errno.errorcode[error.errno]
    return "opened"
found = {
    "uid": os.getuid(),
    "caps": [l.split()[1] for l in open("/proc/self/status") if l.startswith("CapEff")][0],
    "kmsg": tried("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK), "kmsg for writing": tried("/dev/kmsg", os.O_WRONLY),
    "gpu": tried("/dev/nvidia0", os.O_RDWR), "other device": tried("/dev/fuse", os.O_RDWR),
    "etc": tried("/etc/x", os.O_WRONLY | os.O_CREAT), "home": tried("/root/.bashrc", os.O_RDONLY),
    "state": tried(os.environ["STATE_DIRECTORY"] + "/x", os.O_WRONLY | os.O_CREAT),
}
json.dump(found, open(os.environ["STATE_DIRECTORY"] + "/probe.json", "w"))
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdLab]:
    """A booted system with the product installed, and a libnvidia-ml.so.1 to be found."""
    made = SystemdLab(tmp_path_factory.mktemp("systemd"))
    try:
        made.start()
        made.install()
        library = made.share / "libnvidia-ml.so.1"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, SUPPORT / "fakenvml.c"], check=True, timeout=60)
        (made.share / "hangfs.py").write_text((SUPPORT / "hangfs.py").read_text())
        (made.share / "probe.py").write_text(PROBE)
        made.run("mkdir", "-p", Path(DROP_IN).parent.as_posix(), "/mnt/hang", "/etc/gpuwarden")
        yield made
    finally:
        made.stop()


@pytest.fixture
def service(lab: SystemdLab) -> Iterator[SystemdLab]:
    """The unit as it is shipped, not running."""
    drop_in(lab, "")
    yield lab
    lab.run("systemctl", "stop", "gpuwarden", within=20)


def drop_in(lab: SystemdLab, lines: str) -> None:
    lab.write(DROP_IN, f"[Service]\nEnvironment=LD_LIBRARY_PATH=/mnt/share\n{lines}\n")
    lab.run("systemctl", "daemon-reload")


def scrape(lab: SystemdLab) -> Scrape:
    """Return what /metrics says inside, within a second."""
    done = lab.run("/usr/bin/python3", "-c", "import urllib.request as u; "
                   "print(u.urlopen('http://127.0.0.1:9878/metrics', timeout=1).read().decode())")  # fmt: skip
    return Scrape(done.stdout, 0.0)


def temperatures(lab: SystemdLab) -> list[float]:
    return scrape(lab).values("gpuwarden_gpu_temperature_celsius", sensor="core")


def workers(lab: SystemdLab) -> set[int]:
    """Return the pids of the workers that have a thread left, whatever it is in."""
    listed = lab.out("ps", "-eLo", "pid=,stat=,comm=,args=").splitlines()
    mine = int(lab.property("MainPID") or 0)
    alive = [line.split(None, 3) for line in listed]
    group = lab.out("cat", "/sys/fs/cgroup/system.slice/gpuwarden.service/cgroup.procs").split()
    return {int(pid) for pid, state, *_ in alive if pid in group and int(pid) != mine and state[0] not in "ZX"}


def seconds_of(lab: SystemdLab, *command: str) -> float:
    begun = time.monotonic()
    lab.run(*command, within=30)
    return time.monotonic() - begun


def ready_again(lab: SystemdLab, before: str) -> bool:
    return lab.property("ActiveState") == "active" and lab.property("MainPID") not in (before, "0", "")


def kill(lab: SystemdLab, number: int) -> str:
    """Send a signal to the main process and return its pid."""
    pid = lab.property("MainPID")
    assert int(pid) > 1, lab.log()
    lab.run("kill", f"-{number}", pid)
    return pid


def test_it_may_do_what_it_needs_and_nothing_else(service: SystemdLab) -> None:
    """The kernel log to read, its state to write, GPU devices by number; no other device, no home, no /etc."""
    drop_in(service, "ExecStartPre=/usr/bin/python3 /mnt/share/probe.py")
    service.run("mknod", "-m", "666", "/dev/nvidia0", "c", "195", "0")
    service.run("systemctl", "start", "gpuwarden")
    found = json.loads(service.out("cat", "/var/lib/gpuwarden/probe.json"))
    assert found.pop("uid") == int(service.out("id", "-u", "gpuwarden"))
    assert found.pop("caps") == f"{1 << 34:016x}"  # CAP_SYSLOG
    assert found == {
        "kmsg": "opened",
        "kmsg for writing": "EACCES",
        "gpu": "ENXIO",  # it was let through to a driver that is not there
        "other device": "EACCES",
        "etc": "EROFS",
        "home": "EACCES",
        "state": "opened",
    }


def test_it_serves_reads_the_kernel_log_and_says_how_it_is(service: SystemdLab) -> None:
    """READY within seconds; both GPUs; a line of the kernel log is counted; the status line is about the node."""
    assert seconds_of(service, "systemctl", "start", "gpuwarden") < bound(5)
    assert service.property("User") == "gpuwarden"
    wait_for(lambda: temperatures(service), 5, "a temperature")
    now = scrape(service)
    assert (now.value("gpuwarden_nvml_up"), now.value("gpuwarden_kmsg_up")) == (1, 1)
    line = "NVRM: Xid (PCI:0000:3b:00): 31, pid=1, name=lab, MMU Fault"
    before = sum(now.values("gpuwarden_gpu_xid_errors_total", xid="31", source="user"))
    service.write("/dev/kmsg", f"<4>{line}\n")
    wait_for(
        lambda: sum(scrape(service).values("gpuwarden_gpu_xid_errors_total", xid="31", source="user")) == before + 1,
        5, "the line to be counted",
    )  # fmt: skip
    wait_for(lambda: "2 GPUs" in service.property("StatusText"), 3, "a status line")


def test_device_nodes_are_made_for_every_gpu_before_the_start(service: SystemdLab) -> None:
    """By root, whatever numbers the driver gave them: the sandboxed library cannot."""
    service.run("mount", "-t", "tmpfs", "tmpfs", "/proc/driver")
    for address, minor in (("0000:3b:00.0", 0), ("0000:af:00.0", 3)):
        service.run("mkdir", "-p", f"/proc/driver/nvidia/gpus/{address}")
        service.write(f"/proc/driver/nvidia/gpus/{address}/information", f"Model: \t\t X\nDevice Minor: \t {minor}\n")
    service.write("/usr/bin/nvidia-modprobe", '#!/bin/sh\necho "$(id -u) $*" >> /run/modprobe.log\n')
    service.run("chmod", "0755", "/usr/bin/nvidia-modprobe")
    service.run("systemctl", "start", "gpuwarden")
    assert service.out("cat", "/run/modprobe.log").splitlines() == ["0 -u -c=255", "0 -c=0", "0 -c=3"]


def test_the_watchdog_and_a_kill_bring_a_new_daemon(service: SystemdLab) -> None:
    """A main process that stands still is ended by systemd; so is nothing else lost by SIGKILL but seconds."""
    drop_in(service, "WatchdogSec=3s")
    service.run("systemctl", "start", "gpuwarden")
    before = kill(service, signal.SIGSTOP)
    wait_for(lambda: ready_again(service, before), 20, "a new daemon after the watchdog")
    assert "watchdog" in service.log().lower()
    before = kill(service, signal.SIGKILL)
    wait_for(lambda: ready_again(service, before), 15, "a new daemon after SIGKILL")
    wait_for(lambda: temperatures(service), 5, "a temperature")
    assert len(workers(service)) == 1


def test_a_mistake_in_the_configuration_is_no_restart_loop(service: SystemdLab) -> None:
    """Exit 78 fails the unit at once; its log has every mistake."""
    service.write("/etc/gpuwarden/config.toml", 'mode = "off"\nspeed = 1\n')
    try:
        assert service.run("systemctl", "start", "gpuwarden", check=False).returncode != 0
        assert (service.property("ActiveState"), service.property("ExecMainStatus")) == ("failed", "78")
        assert service.property("NRestarts") == "0"
        assert "2 problems" in service.log()
    finally:
        service.run("rm", "/etc/gpuwarden/config.toml")
        service.run("systemctl", "reset-failed", "gpuwarden")


def test_a_worker_in_state_d_holds_up_neither_stop_nor_start(service: SystemdLab) -> None:
    """READY before NVML answers; a stop takes 6 s at most, a restart after SIGKILL 12; never a second such worker."""
    drop_in(service, f"Environment=FAKENVML_READS=nvmlInitWithFlags={HANG}")
    served = service.begin("/usr/bin/python3", "/mnt/share/hangfs.py", "/mnt/hang")
    try:
        assert served.stdout is not None
        assert served.stdout.readline() == b"ready\n"
        service.run("ln", "-s", "/mnt/hang/hang", HANG)
        assert seconds_of(service, "systemctl", "start", "gpuwarden") < bound(5)
        assert scrape(service).value("gpuwarden_nvml_up") == 0
        (worker,) = wait_for(lambda: workers(service), 5, "a worker")
        wait_for(lambda: "wait_answer" in service.out("sh", "-c", f"cat /proc/{worker}/task/*/wchan"), 5, "its read")

        assert seconds_of(service, "systemctl", "stop", "gpuwarden") <= bound(6)
        assert workers(service) == {worker}
        assert json.loads(service.out("cat", ABANDONED))["pid"] == worker

        assert seconds_of(service, "systemctl", "start", "gpuwarden") < bound(5)
        begun = time.monotonic()
        before = kill(service, signal.SIGKILL)
        wait_for(lambda: ready_again(service, before), 20, "a new daemon after SIGKILL")
        assert time.monotonic() - begun <= bound(12)
        blocked = scrape(service)
        assert blocked.value("gpuwarden_nvml_up") == 0
        assert blocked.value("gpuwarden_finding_active", kind="presence.nvml_blocked", severity="critical") == 1
        assert (blocked.value("gpuwarden_nvml_blocked_seconds") or 0) > 10  # counted from the call, not from our start
        assert workers(service) == {worker}

        service.run("rm", HANG)
        tell_hangfs(service, "USR1")
        wait_for(lambda: temperatures(service), 5, "temperatures after the call returned")
        assert service.run("test", "-e", ABANDONED, check=False).returncode == 1
        assert worker not in workers(service)
    finally:
        tell_hangfs(service, "TERM")
        served.wait(5)


def tell_hangfs(lab: SystemdLab, name: str) -> None:
    """Send a signal to the file system in there: USR1 answers everybody who reads, TERM unmounts too."""
    lab.run("pkill", f"-{name}", "--full", "/mnt/share/hangfs.py", check=False)


def as_nobody(command: str) -> list[str]:
    """Return a command line for user nobody without configuration, home, capabilities and kernel log."""
    closed = "touch /run/closed; chmod 600 /run/closed; mount --bind /run/closed /dev/kmsg; cd /; "
    nobody = (
        "exec setpriv --reuid=nobody --regid=nogroup --clear-groups --inh-caps=-all --bounding-set=-all "
        "env -i PATH=/usr/bin:/bin HOME=/nonexistent "
    )
    return ["unshare", "--mount", "sh", "-c", f"{closed}{nobody}{command} 2>&1"]


def test_an_ordinary_user_s_check_says_what_it_cannot_see(lab: SystemdLab) -> None:
    """No configuration, no root, no home, no kernel log, no driver: unknown, and how to allow what is missing."""
    done = lab.run(*as_nobody("gpuwarden check"), check=False)
    assert done.returncode == 3
    assert "unknown" in done.stdout.splitlines()[0]
    assert "/dev/kmsg: Permission denied" in done.stdout
    assert "No GPU readings: no NVIDIA driver answers. Install or load" in done.stdout
    assert "Traceback" not in done.stdout


def test_an_ordinary_user_s_daemon_runs_and_says_what_it_cannot_see(lab: SystemdLab) -> None:
    """The same for `run`: it serves, tells of each closed door, and ends with 0 when it is told to."""
    expected = {"/dev/kmsg: Permission denied", "daemon.ready", "nvml.not_opened"}
    process = lab.begin(*as_nobody("timeout --preserve-status 20 gpuwarden run --web.listen-address 127.0.0.1:9999"))
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line.decode()
        if all(word in said for word in expected):
            lab.run("pkill", "-TERM", "--full", "^timeout .*127.0.0.1:9999", check=False)
    assert process.wait(10) == 0
    assert {word for word in expected if word in said} == expected
    assert "Traceback" not in said
