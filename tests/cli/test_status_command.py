"""`gpuwarden status`: the daemon's answer as a table or JSON, and clear words where no daemon answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpuwarden.cli.client import Daemon
from gpuwarden.errors import DaemonUnreachableError, GpuwardenError, InputError
from gpuwarden.model.finding import Health
from gpuwarden.model.severity import Severity
from gpuwarden.model.snapshot import Presence
from support.nodes import gpu, incident, node, with_incidents
from support.rig import Rig


def test_a_healthy_node_is_a_table_of_its_gpus(live: Rig) -> None:
    """One line per GPU with what it says now; units are spoken."""
    result = live.run("status")
    assert result.exit_code == 0
    assert result.stdout.startswith("rig7: healthy, mode shadow\n")
    rows = [line for line in result.stdout.splitlines() if "NVIDIA H100" in line]
    assert len(rows) == 8
    assert "41C" in rows[0]
    assert "412/700W" in rows[0]
    assert not any(line.endswith(" ") for line in result.stdout.splitlines())


def test_findings_are_told_worst_first_with_their_evidence(live: Rig) -> None:
    """Kind, GPU, how long, evidence; a drill is called one."""
    sick = gpu(1, "rtx4090", health=Health.UNHEALTHY, presence=Presence.LOST)
    live.source.state = with_incidents(
        node(gpu(0, "rtx4090"), sick, health=Health.UNHEALTHY),
        incident("thermal.core_near_limit", gpu(0).identity.uuid, Severity.WARNING, evidence={"core_celsius": 91.5}),
        incident("presence.gpu_lost", sick.identity.uuid, drill=True, evidence={"nvml_code": 15}),
    )
    lines = live.run("status").stdout.splitlines()
    (lost, hot) = lines[-2:]
    assert lost.split()[:4] == ["critical", "presence.gpu_lost", "(drill)", "1"]
    assert "1m" in lost
    assert hot.split()[:3] == ["warning", "thermal.core_near_limit", "0"]
    assert hot.endswith("core_celsius=91.5")
    table_row = next(line for line in lines if line.startswith("  1  "))
    assert " -  " in table_row  # a lost GPU has no readings, and none are made up


def test_what_is_blind_is_said(live: Rig) -> None:
    """A kernel log that cannot be read, a journal that cannot be written."""
    live.source.state = node(kmsg_up=False, kmsg_detail="Permission denied", journal_writable=False)
    text = live.run("status").stdout
    assert "kernel log not read: Permission denied" in text
    assert "journal not written" in text


def test_json_is_the_apis_answer(live: Rig) -> None:
    """The same document that /api/v1/status serves."""
    found = live.json("status")
    assert found["host"]["name"] == "rig7"
    assert [each["gpu"] for each in found["gpus"]] == list(range(8))


def test_text_from_outside_cannot_steer_the_terminal(live: Rig) -> None:
    """A name with an escape sequence is shown escaped."""
    evil = gpu(0)
    identity = type(evil.identity)(uuid="GPU-0", bdf="0000:01:00.0", name="\x1b[2Jevil")
    live.source.state = node(gpu(0, identity=identity))
    text = live.run("status").stdout
    assert "\x1b" not in text
    assert "\\x1b[2Jevil" in text


def test_without_a_daemon_it_says_what_to_try(rig: Rig) -> None:
    """Exit 3; which socket, and how to get a daemon."""
    result = rig.run("status", "--config", str(rig.config))
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"{rig.runtime_dir}/status.sock: there is no such socket" in result.stderr
    assert "gpuwarden run" in result.stderr


def test_watching_goes_on_until_it_is_ended(live: Rig) -> None:
    """Each look is one line of JSON; Ctrl-C ends it without a traceback."""
    with subprocess.Popen(
        [sys.executable, "-m", "gpuwarden.cli", "status", "--watch", "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "GPUWARDEN_CONFIG": str(live.config)},
    ) as process:
        assert process.stdout is not None
        looks = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [look["health"] for look in looks] == ["healthy", "healthy"]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, b"")


@contextmanager
def listening(path: Path, answer: bytes | None) -> Iterator[None]:
    """Accept one connection on `path` and send `answer`; None: never say anything."""
    ended = threading.Event()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(1)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                if answer is not None:
                    connection.sendall(answer)
                else:
                    ended.wait(20)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        ended.set()
        thread.join(5)


def test_a_daemon_that_says_nothing_is_given_up_in_time(rig: Rig) -> None:
    """The deadline bounds the whole exchange."""
    path = rig.runtime_dir / "status.sock"
    begun = time.monotonic()
    with listening(path, None), pytest.raises(DaemonUnreachableError, match="no answer in time"):
        Daemon((path,), deadline_seconds=0.3).get("status")
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        pytest.param(b"SSH-2.0-OpenSSH\r\n", DaemonUnreachableError, "does not speak HTTP", id="not-http"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{", GpuwardenError, "no JSON", id="not-json"),
        pytest.param(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", InputError, "another version", id="404"),
        pytest.param(b"HTTP/1.1 503 x\r\nContent-Length: 5\r\n\r\nbusy\n", DaemonUnreachableError, "busy", id="busy"),
        pytest.param(b"HTTP/1.1 500 x\r\nContent-Length: 3\r\n\r\nno\n", GpuwardenError, "failed", id="failed"),
        pytest.param(
            b'HTTP/1.1 400 x\r\nContent-Length: 13\r\n\r\n{"error":"e"}', InputError, "^e$", id="refused-as-json"
        ),
    ],
)
def test_odd_answers_are_errors_with_words(rig: Rig, answer: bytes, error: type[Exception], words: str) -> None:
    """Whatever listens there: one error of ours, never a traceback."""
    path = rig.runtime_dir / "status.sock"
    with listening(path, answer), pytest.raises(error, match=words):
        Daemon((path,)).get("status")


def test_the_second_socket_is_tried_where_the_first_is_gone(live: Rig) -> None:
    """An ordinary user without a daemon of his own is shown the system's."""
    sockets = (live.runtime_dir / "none.sock", live.runtime_dir / "status.sock")
    assert Daemon(sockets).get("status")["health"] == "healthy"
