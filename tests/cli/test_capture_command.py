"""`gpuwarden capture` and `replay`: what is observed becomes a file, and the file leads to the same decisions."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gpuwarden.capture import CaptureWriter, read_capture
from gpuwarden.capture_stream import CaptureStream
from gpuwarden.errors import InputError
from gpuwarden.model.observation import AnyObservation
from support.rig import Rig
from support.story import Story

LOST = 15


class Played(Story):
    """A story that goes on with each fetch: the first of them loses a GPU."""

    def __init__(self) -> None:
        self.stream: CaptureStream | None = None
        super().__init__()
        self.started(2)
        self.stream = CaptureStream(lambda: self.node, "rig7")
        self.asked: list[str] = []

    def take(self, observation: AnyObservation) -> None:
        told = len(self.events)
        super().take(observation)
        if self.stream is not None:
            self.stream.taken(observation, self.events[told:])

    async def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        assert self.stream is not None
        self.asked.append(body["action"])
        if body["action"] != "start":
            if "lost" not in self.asked:
                self.asked.append("lost")
                self.failed(1, LOST)
            self.wait(1)
        return await self.stream.answer(body)


@pytest.fixture
def played(live: Rig) -> Played:
    """A daemon that can be captured."""
    story = Played()
    live.answers["capture"] = story.answer
    return story


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_a_capture_replays_to_the_same_decisions(live: Rig, played: Played, tmp_path: Path, name: str) -> None:
    """Recorded through the daemon, private to who asked, then replayed: exit 0."""
    out = tmp_path / name
    made = live.run("capture", str(out), "--for", "1.2s", "--format", "json")
    assert made.exit_code == 0, made.output
    assert out.stat().st_mode & 0o777 == 0o600
    assert out.read_bytes().startswith(b"\x1f\x8b") is name.endswith(".gz")
    counts = json.loads(made.stdout)
    capture = read_capture(out)
    steps = list(capture)
    assert (counts["observations"], capture.header.masked) == (len(steps), True)
    assert counts["decisions"] == sum(bool(step.events) for step in steps) > 0
    again = live.run("replay", str(out))
    assert again.exit_code == 0
    assert "presence.gpu_lost" in again.stdout
    assert "the same as captured" in again.stdout
    assert live.json("replay", str(out))["same"] is True


def test_an_existing_file_is_left_alone(live: Rig, played: Played, tmp_path: Path) -> None:
    """Exit 2, the file as it was, and the daemon is told to stop."""
    out = tmp_path / "x"
    out.write_text("mine")
    result = live.run("capture", str(out))
    assert result.exit_code == 2
    assert "File exists" in result.stderr
    assert out.read_text() == "mine"
    assert played.asked[-1] in ("stop", "lost")


def test_control_c_ends_it_early_and_the_file_is_whole(live: Rig, played: Played, tmp_path: Path) -> None:
    """Asked for an hour, ended after a moment: exit 0, a capture that is not cut off."""
    out = tmp_path / "x.gz"
    with subprocess.Popen(
        [sys.executable, "-m", "gpuwarden.cli", "capture", str(out), "--for", "1h"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "GPUWARDEN_CONFIG": str(live.config)},
    ) as process:
        assert process.stderr is not None
        assert b"Ctrl-C ends it early" in process.stderr.readline()
        until = time.monotonic() + 10
        while "fetch" not in played.asked:
            assert time.monotonic() < until
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, b"")
    assert b"observations in" in said
    capture = read_capture(out)
    assert list(capture)
    assert not capture.truncated


def test_a_capture_that_the_daemon_ended_is_said(live: Rig, played: Played, tmp_path: Path) -> None:
    """The daemon's words; what came before is kept."""

    async def once(body: dict[str, Any]) -> dict[str, Any]:
        if body["action"] != "start":
            raise InputError("this capture has ended")
        return await played.answer(body)

    live.answers["capture"] = once
    result = live.run("capture", str(tmp_path / "x"), "--for", "5s")
    assert result.exit_code == 2
    assert "this capture has ended" in result.stderr
    assert read_capture(tmp_path / "x").header.masked


def test_other_decisions_are_a_diff(rig: Rig, tmp_path: Path) -> None:
    """A capture of an engine that did not see the loss: exit 1, and the line that is new."""
    story = Story()
    path = tmp_path / "x"
    with CaptureWriter(path, story.started(2).node, host="h", mask=False) as writer:
        taken: list[AnyObservation] = []
        story.take = taken.append  # type: ignore[method-assign]
        story.failed(1, LOST)
        for observation in taken:
            writer.write(observation, ())
    result = rig.run("replay", str(path))
    assert result.exit_code == 1
    assert any(line.startswith("+") and "presence.gpu_lost" in line for line in result.stdout.splitlines())
    assert rig.run("replay", str(path), "--format", "json").exit_code == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"NVRM: Xid", gzip.compress(b"x")])
def test_what_is_no_capture_is_refused(rig: Rig, tmp_path: Path, content: bytes) -> None:
    """Exit 2 with the file's name."""
    (tmp_path / "x").write_bytes(content)
    result = rig.run("replay", str(tmp_path / "x"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{tmp_path}/x" in result.stderr
