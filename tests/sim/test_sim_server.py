"""The simulated node as a process: what it serves, and what happens to its clients."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pynvml
import pytest

from gpuwarden.collectors.pci import scan
from gpuwarden.errors import InputError
from gpuwarden.model.kernel_log import parse_record
from gpuwarden.nvml.session import close_session, handle_of, open_session
from gpuwarden.sim import client
from gpuwarden.sim.client import SocketSource
from gpuwarden.sim.nvml import SimLibrary
from support.fakenvml import library

DEADLINE_SECONDS = 10.0


class Node:
    """A server process and where it shows itself."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.socket = directory / "sim.sock"
        command = (sys.executable, "-P", "-m", "gpuwarden.sim.server", "--dir", str(directory), *arguments)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ready(self) -> Node:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n", self.words()
        return self

    def words(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def stop(self) -> int:
        self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; the test fails with `what` when it does not come."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, what
        pause.wait(0.02)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    running = Node(tmp_path_factory.mktemp("sim"), "--spec", "a100x4").ready()
    yield running
    assert running.stop() == 0


@pytest.fixture
def clean(node: Node) -> Iterator[Node]:
    """The node, with every fault taken out afterwards."""
    yield node
    for on in client.status(node.socket)["active"]:
        client.inject(node.socket, on["fault"], on["gpu"], clear=True)


@pytest.fixture
def session(clean: Node) -> Iterator[Node]:
    """An NVML session on the node, through its socket."""
    with library(SimLibrary(SocketSource(clean.socket))):
        assert open_session().count == 4
        yield clean
        close_session()


def test_status_says_what_there_is(node: Node) -> None:
    """Product, GPUs and every fault with its options."""
    said = client.status(node.socket)
    assert (said["product"], said["gpus"], said["derived"]) == ("NVIDIA A100-SXM4-80GB", 4, True)
    assert said["faults"]["xid"]["options"]["code"] == 79


def test_mistakes_come_back_as_input_errors(node: Node) -> None:
    """A fault that does not exist is answered with those that do."""
    with pytest.raises(InputError, match="known are access_lost"):
        client.inject(node.socket, "meteor", 0)
    with pytest.raises(InputError, match="its options are code=79"):
        client.inject(node.socket, "xid", 0, colour="red")


def test_the_library_works_through_the_socket(session: Node) -> None:
    """Readings of the server's world, in another process."""
    assert 20 < pynvml.nvmlDeviceGetTemperature(handle_of(0)[0], 0) < 80


def test_the_kernel_log_has_raw_records(session: Node) -> None:
    """An Xid is a record of the kernel's in DIR/kmsg at once, and an event for who waits."""
    events = pynvml.nvmlEventSetCreate()
    pynvml.nvmlDeviceRegisterEvents(handle_of(1)[0], pynvml.nvmlEventTypeXidCriticalError, events)
    client.inject(session.socket, "xid", 1, code=48)
    data = pynvml.nvmlEventSetWait_v2(events, 5000)
    assert (data.eventData, pynvml.nvmlDeviceGetIndex(data.device)) == (48, 1)
    records = [parse_record(line) for line in (session.directory / "kmsg").read_bytes().splitlines()]
    assert "Xid (PCI:0000:21:00): 48" in records[-1].text
    assert records[-1].facility == 0


def test_sysfs_is_what_the_scanner_reads(clean: Node) -> None:
    """Four GPUs bound to the driver, link and slot; then one that answers all ones, and one that is gone."""
    root = clean.directory / "sys"
    found = scan(root)
    assert found.readable
    assert found.module_version == "590.48.01"
    assert [(gpu.bdf, gpu.driver, gpu.slot, gpu.link_width_lanes) for gpu in found.devices] == [
        (f"0000:{bus:02x}:00.0", "nvidia", str(slot), 16) for slot, bus in enumerate((0x01, 0x21, 0x41, 0x61), 1)
    ]
    client.inject(clean.socket, "fallen_off", 1)
    client.inject(clean.socket, "missing", 2)
    client.inject(clean.socket, "downtrained", 3, width=8, generation=2)
    after = {gpu.bdf: gpu for gpu in scan(root).devices}
    assert set(after) == {"0000:01:00.0", "0000:21:00.0", "0000:61:00.0"}
    assert not after["0000:21:00.0"].config_readable
    assert (after["0000:61:00.0"].link_width_lanes, after["0000:61:00.0"].link_generation) == (8, 2)
    client.inject(clean.socket, "missing", 2, clear=True)
    assert len(scan(root).devices) == 4


def test_a_driver_reload_is_seen_in_sysfs(clean: Node) -> None:
    """Without a driver no module and no device bound; then both again."""
    root = clean.directory / "sys"
    client.inject(clean.socket, "driver_reload", seconds=0.5)
    assert scan(root).module_version == ""
    assert {gpu.driver for gpu in scan(root).devices} == {""}
    until(lambda: scan(root).module_version == "590.48.01", "the driver did not come back")
    until(lambda: {gpu.driver for gpu in scan(root).devices} == {"nvidia"}, "the devices were not bound again")


def test_a_hung_call_returns_when_the_fault_is_cleared(session: Node) -> None:
    """The call blocks, its siblings do not, and it answers when it is let go."""
    handle = handle_of(1)[0]
    client.inject(session.socket, "hung", 1, call="PowerUsage")
    answered: list[int] = []
    thread = threading.Thread(target=lambda: answered.append(pynvml.nvmlDeviceGetPowerUsage(handle)), daemon=True)
    until(lambda: client.status(session.socket)["active"], "the fault is not on")
    pause = threading.Event()
    pause.wait(0.1)  # the library may still hold what was true 50 ms ago
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    assert pynvml.nvmlDeviceGetTemperature(handle, 0) > 20
    assert pynvml.nvmlDeviceGetPowerUsage(handle_of(0)[0]) > 0
    client.inject(session.socket, "hung", 1, clear=True)
    thread.join(DEADLINE_SECONDS)
    assert len(answered) == 1


def test_a_crash_kills_the_caller_once(clean: Node) -> None:
    """SIGSEGV for the process that called, and the next one works: the node outlives it."""
    client.inject(clean.socket, "crash", 1)
    code = (
        "import sys, pathlib, pynvml\n"
        "from gpuwarden.nvml import session\n"
        "from gpuwarden.sim.client import SocketSource\n"
        "from gpuwarden.sim.nvml import SimLibrary\n"
        "session.use_library(SimLibrary(SocketSource(pathlib.Path(sys.argv[1]))))\n"
        "pynvml.nvmlInit()\n"
        "print(pynvml.nvmlDeviceGetTemperature(pynvml.nvmlDeviceGetHandleByIndex(1), 0))\n"
    )
    ends = [
        subprocess.run((sys.executable, "-c", code, str(clean.socket)), capture_output=True, check=False).returncode
        for _ in range(2)
    ]
    assert ends == [-signal.SIGSEGV, 0]


def test_a_node_that_is_gone_is_a_driver_that_is_gone(tmp_path: Path) -> None:
    """The worker retries, as without a driver; a person's question is an OSError."""
    with library(SimLibrary(SocketSource(tmp_path / "sim.sock"))):
        assert open_session().code == 9
    with pytest.raises(OSError, match="No such file"):
        client.status(tmp_path / "sim.sock")


def test_a_scenario_plays_by_itself(tmp_path: Path) -> None:
    """The server is the one that plays the timeline, at the speed asked for."""
    path = tmp_path / "mine.toml"
    path.write_text('version = 1\nproduct = "t4x2"\n[[at]]\nseconds = 20\nfault = "lost"\ngpu = 1\n')
    node = Node(tmp_path / "sim", "--spec", str(path), "--speed", "50").ready()
    until(lambda: client.status(node.socket)["active"], "the fault did not come")
    assert client.status(node.socket)["scenario"] == "mine"
    assert node.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("--spec", "rtx9090x2"), "known are"), (("--spec", "t4", "--speed", "0"), "--speed")],
)
def test_a_server_that_cannot_start_says_why(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    """One line on stderr, exit code 2, no `ready`."""
    node = Node(tmp_path, *arguments)
    out, err = node.process.communicate(timeout=DEADLINE_SECONDS)
    assert (node.process.returncode, out) == (2, b"")
    assert says in err.decode()
    assert len(err.splitlines()) == 1


def test_each_start_is_another_boot(tmp_path: Path) -> None:
    """A new boot id, a new log: nothing of the last start is taken for this one's."""
    boots = set()
    for _ in range(2):
        node = Node(tmp_path, "--spec", "t4").ready()
        boots.add((tmp_path / "boot_id").read_text())
        assert (tmp_path / "kmsg").read_bytes().count(b"\n") == 1
        node.stop()
    assert len(boots) == 2
    assert not (tmp_path / "sim.sock").exists()


def test_the_server_is_cheap(node: Node) -> None:
    """A node of four GPUs at rest costs a few percent of one core."""
    ticks = os.sysconf("SC_CLK_TCK")

    def used() -> float:
        fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    before = used()
    threading.Event().wait(2.0)
    assert used() - before < 0.3
