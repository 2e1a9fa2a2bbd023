"""A real Slurm on loopback: munged, slurmctld and one slurmd per node, in a directory and on ports of its own.

All nodes run on this host. `far` is a node record of another host, on which nothing runs. A reboot of a node is a
slurmd that ends and comes back in a time namespace in which the host booted just now: what Slurm then sees and does is
real, that the host itself did not reboot is not.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from gpuwarden.actuators.site import Place, Site
from gpuwarden.config import Config
from gpuwarden.config.schema import Budget, Isolation

NODES = ("n1", "n2", "n3", "n4")
GPUS = 4
BDFS = ("0000:3b:00.0", "0000:5e:00.0", "0000:86:00.0", "0000:af:00.0")
MINORS = (1, 0, 2, 3)  # of those, in this order
_WAIT_SECONDS = 40.0

_CONF = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={other_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.sock
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
MpiDefault=none
ReturnToService=1
SlurmctldTimeout=10
SlurmdTimeout=10
ResumeTimeout=60
SlurmdParameters=config_overrides
KillWait=2
MinJobAge=60
InactiveLimit=0
GresTypes=gpu
RebootProgram={root}/reboot.sh
"""
_REBOOT = """\
#!/bin/sh
pid=$PPID
while [ "$pid" -gt 1 ]; do
  node=$(tr '\\0' ' ' <"/proc/$pid/cmdline" | sed -n 's/.*slurmd.* -N \\([^ ]*\\).*/\\1/p')
  [ -n "$node" ] && touch "{root}/rebooting.$node" && exit 0
  pid=$(awk '/^PPid/{{print $2}}' "/proc/$pid/status")
done
"""


class SlurmLab:
    """One cluster. `down` ends what `up` started, and nothing else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.conf = root / "etc/slurm.conf"
        self._env = {"PATH": os.environ["PATH"], "SLURM_CONF": str(self.conf), "TZ": "UTC", "LC_ALL": "C"}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    # ---- coming and going

    def up(self) -> None:
        """Lay everything out, start it, and wait until all nodes are idle."""
        for name in ("state", "spool", "log", "munge", "run", "etc"):
            (self.root / name).mkdir()
        self.root.chmod(0o755)
        (self.root / "munge").chmod(0o700)
        key = self.root / "munge/key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self._write_conf()
        self._start(
            "munged",
            *("munged", "--force", "--foreground", f"--key-file={key}", f"--socket={self.root}/run/munge.sock"),
            *(f"--log-file={self.root}/munge/log", f"--pid-file={self.root}/munge/pid"),
            f"--seed-file={self.root}/munge/seed",
        )
        wait((self.root / "run/munge.sock").exists, "munged")
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        for node in NODES:
            self.wait_state(node, "IDLE")

    def _write_conf(self) -> None:
        host = socket.gethostname().partition(".")[0]
        port, other_port, far, *ports = _free_ports(3 + len(NODES))
        lines = [_CONF.format(root=self.root, host=host, port=port, other_port=other_port)]
        shape = f"NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 Gres=gpu:{GPUS} State=UNKNOWN"
        lines += [f"NodeName={n} NodeHostname={host} Port={p} {shape}\n" for n, p in zip(NODES, ports, strict=True)]
        lines += [f"NodeName=far NodeHostname=elsewhere Port={far} {shape}\n"]
        lines += [f"PartitionName=main Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE State=UP\n"]
        lines += ["PartitionName=afar Nodes=far MaxTime=INFINITE State=UP\n"]
        self.conf.write_text("".join(lines))
        for number in range(GPUS):
            os.mknod(self.root / f"gpu{number}", 0o666 | 0o020000, os.makedev(1, 3))
        gpus = f"{self.root}/gpu[0-{GPUS - 1}]"
        (self.root / "etc/gres.conf").write_text("".join(f"NodeName={n} Name=gpu File={gpus}\n" for n in NODES))
        (self.root / "etc/cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        program = self.root / "reboot.sh"
        program.write_text(_REBOOT.format(root=self.root))
        program.chmod(0o755)

    def down(self) -> None:
        """End every process, jobs first."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.call("scancel", "--full", "-u", "root")
            wait(lambda: not self.call("squeue", "-h").strip(), "the end of all jobs")
        for process in reversed(list(self._processes.values())):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start_controller(self) -> None:
        """Start slurmctld and wait until it answers."""
        self._start("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        wait(lambda: self._answers("scontrol", "ping"), "slurmctld")

    @property
    def controller_pid(self) -> int:
        """Return slurmctld's process id."""
        return self._processes["slurmctld"].pid

    def signal_controller(self, number: signal.Signals) -> None:
        """Send slurmctld a signal."""
        self._processes["slurmctld"].send_signal(number)

    def kill_controller(self) -> None:
        """Kill slurmctld and wait for its end."""
        self._processes["slurmctld"].kill()
        self._processes["slurmctld"].wait()

    def start_node(self, node: str, *, booted_now: bool = False) -> None:
        """Start a node's slurmd, on request in a boot of its own."""
        command = ["slurmd", "-D", "-N", node, "-f", str(self.conf)]
        if booted_now:
            uptime = int(float(Path("/proc/uptime").read_text().split()[0]))
            command = ["unshare", "--time", f"--boottime=-{uptime}", "--fork", "--kill-child=KILL", *command]
        self._start(node, *command)

    def reboot(self, node: str) -> float:
        """Let a node reboot; its slurmd is back in another boot. Returns that boot's time as the node's kernel has it.

        Slurm takes a node for rebooted whose boot is younger than what it last heard of it. A ping of Slurm's that the
        new slurmd answers before it has registered hides the boot: then the node boots once more.
        """
        for _ in range(5):
            self.end_node(node)
            heard = time.time()
            wait(lambda heard=heard: time.time() > heard + 3.5, "a moment without the node")
            self.start_node(node, booted_now=True)
            booted = time.time()
            wait(lambda booted=booted: abs(booted - self.boot_time(node)) < 10.0, f"{node} in another boot")
            if "DOWN" in self.state(node):
                break
        return self.boot_time(node)

    def end_node(self, node: str) -> None:
        """Kill a node's slurmd."""
        self._processes[node].kill()
        self._processes[node].wait()

    def restart_node(self, node: str) -> None:
        """Have a node register with the controller now, and not with the next ping."""
        self.end_node(node)
        self.start_node(node)

    def rebooting(self, node: str) -> bool:
        """Return whether Slurm's RebootProgram was run on a node."""
        return (self.root / f"rebooting.{node}").exists()

    def _start(self, name: str, *command: str) -> None:
        with (self.root / "log" / f"{name}.out").open("ab") as out:
            self._processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self._env, start_new_session=True
            )

    # ---- what people and tests do

    def call(self, *command: str, ok: bool = True) -> str:
        """Return what one of Slurm's tools prints."""
        done = subprocess.run(command, capture_output=True, text=True, env=self._env, timeout=20, check=False)
        assert not ok or done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout

    def _answers(self, *command: str) -> bool:
        return subprocess.run(command, capture_output=True, env=self._env, timeout=20, check=False).returncode == 0

    def update(self, node: str, *changes: str) -> None:
        """Do what an admin does."""
        self.call("scontrol", "update", f"nodename={node}", *changes)

    def shown(self, node: str, key: str) -> str:
        """Return one value of a node as `scontrol show node` prints it, to the end of its line."""
        for line in self.call("scontrol", "show", "node", node).splitlines():
            if f" {key}=" in f" {line.strip()}":
                return line.partition(f"{key}=")[2].strip()
        return ""

    def state(self, node: str) -> set[str]:
        """Return a node's state and flags."""
        return set(self.shown(node, "State").split()[0].split("+"))

    def reason(self, node: str) -> str:
        """Return a node's reason with who set it."""
        return self.shown(node, "Reason")

    def boot_time(self, node: str) -> float:
        """Return when Slurm takes a node to have booted; 0 where it does not know."""
        told = self.shown(node, "BootTime").split()[0]
        if told == "None":
            return 0.0
        return float(subprocess.run(["date", "-u", "-d", told, "+%s"], capture_output=True, check=True).stdout)

    def wait_state(self, node: str, *states: str) -> None:
        """Wait until a node has exactly these states, and is heard of."""
        wait(lambda: self.state(node) == set(states) and self.boot_time(node) > 0, f"{node} to be {'+'.join(states)}")

    def submit(self, node: str, seconds: float, gpus: int = 0) -> str:
        """Start a job on a node and return its id once it runs."""
        gres = [f"--gres=gpu:{gpus}"] if gpus else []
        told = self.call(
            *("sbatch", "--parsable", "-w", node, "-n", "1", "--chdir=/tmp", "-o", "/dev/null", *gres),
            *("--wrap", f"sleep {seconds}"),
        )
        job = told.strip()
        wait(lambda: self.job_state(job) == "RUNNING", f"job {job} to run")
        return job

    def job_state(self, job: str) -> str:
        """Return the state of a job."""
        return self.call("scontrol", "show", "job", job).partition("JobState=")[2].split()[0]

    def slots(self) -> dict[str, str]:
        """Return the nodes of the fleet's slots by name."""
        shown = self.call("scontrol", "-o", "show", "reservation", ok=False)
        pairs = [dict(word.partition("=")[::2] for word in line.split()) for line in shown.splitlines()]
        return {pair["ReservationName"]: pair["Nodes"] for pair in pairs if "ReservationName" in pair}

    def clean(self) -> None:
        """Bring every node back to idle: no job, no reason, no Extra, no reservation."""
        for name in self.slots():
            self.call("scontrol", "delete", f"reservation={name}")
        self.call("scancel", "--full", "-u", "root", ok=False)
        wait(lambda: not self.call("squeue", "-h").strip(), "the end of all jobs")
        for node in NODES:
            if self.state(node) != {"IDLE"} or self.boot_time(node) == 0:
                self.call("scontrol", "update", f"nodename={node}", "state=resume", ok=False)
                self.restart_node(node)
            if self.shown(node, "Extra"):
                self.update(node, "extra=")
            (self.root / f"rebooting.{node}").unlink(missing_ok=True)
        for node in NODES:
            self.wait_state(node, "IDLE")

    # ---- where the product looks

    def site(self, node: str, where: Path, **sections: Mapping[str, object]) -> Site:
        """Return the site of a node: its own /proc, in which it booted when its slurmd says, and a state directory."""
        proc = where / "proc"
        (proc / "sys/kernel").mkdir(parents=True, exist_ok=True)
        (proc / "sys/kernel/hostname").write_text(socket.gethostname() + "\n")
        booted = self.boot_time(node) if node != "far" else time.time() - 3600
        (proc / "stat").write_text(f"cpu  1 2 3\nbtime {int(booted)}\nprocesses 1\n")
        for bdf, minor in zip(BDFS, MINORS, strict=True):
            gpu = proc / "driver/nvidia/gpus" / bdf
            gpu.mkdir(parents=True, exist_ok=True)
            (gpu / "information").write_text(f"Model: \t\t Tesla T4\nBus Type: \t PCIe\nDevice Minor: \t {minor}\n")
        isolation = {"backend": "slurm", "node_name": node, "slurm_conf": str(self.conf)}
        config = Config(
            isolation=msgspec.convert(isolation | dict(sections.get("isolation", {})), Isolation),
            budget=msgspec.convert(dict(sections.get("budget", {})), Budget),
        )
        return Site(config=config, place=Place(proc=str(proc), state_dir=str(where)))


def wait(true: Callable[[], bool], what: str, seconds: float = _WAIT_SECONDS) -> None:
    """Wait until something is so. Raises: AssertionError where it does not come about."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.05)


@contextlib.contextmanager
def slurm_lab() -> Iterator[SlurmLab]:
    """A cluster that is up; afterwards nothing of it is left."""
    root = Path(tempfile.mkdtemp(prefix="slurmlab"))
    lab = SlurmLab(root)
    try:
        lab.up()
        yield lab
    finally:
        lab.down()
        shutil.rmtree(root)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
