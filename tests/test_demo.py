"""The demo: its story, and the command from its start to its verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpuwarden.demo import Story
from gpuwarden.sim.scenario import load

SCENARIO = """
version = 1
title = "short"
product = "h100x2"
seconds = 4.0
only_expected = true

[[at]]
seconds = 0.5
fault = "fallen_off"
gpu = 1

[[expect]]
incident = "xid.xid_79"
gpu = 1
within_seconds = 3.0

[[expect]]
incident = "presence.gpu_lost"
gpu = 1
within_seconds = 3.0
"""


def opened(name: str, gpu: int, time: float) -> dict[str, Any]:
    return {
        "kind": "incident", "state": "opened", "name": name, "gpu": gpu, "severity": "critical", "time": time,
        "evidence": {},
    }  # fmt: skip


def written(folder: Path) -> Path:
    file = folder / "short.toml"
    file.write_text(SCENARIO)
    return file


def test_each_thing_is_told_once_and_what_is_missing_or_odd_fails_it(tmp_path: Path) -> None:
    """Script and agent side by side, in the order in which they happen; then what was seen of what was expected."""
    story = Story(load(str(written(tmp_path))))
    assert story.lines(0.2, []) == []
    fallen = opened("xid.xid_79", 1, 10.0)
    assert [(line.who, str(line)[:4]) for line in story.lines(1.0, [fallen])] == [("script", "0:00"), ("agent", "0:01")]
    assert story.lines(2.0, [fallen]) == []
    assert story.verdict().not_seen == ("presence.gpu_lost of GPU 1 within 3 s",)
    story.lines(3.0, [fallen, opened("presence.gpu_lost", 1, 11.0)])
    assert story.verdict().good
    story.lines(3.5, [opened("xid.xid_48", 0, 12.0)])
    assert story.verdict().not_in_the_script == ("xid.xid_48 of GPU 0",)
    assert not story.is_good


def test_the_command_ends_with_its_verdict(tmp_path: Path) -> None:
    """Without a terminal it ends by itself; with json, stdout is one object a line and the last one is the verdict."""
    done = subprocess.run(
        [sys.executable, "-m", "gpuwarden.cli", "demo", "--scenario", written(tmp_path), "--format", "json"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    *story, verdict = [json.loads(line) for line in done.stdout.splitlines()]
    assert story[0] == {"seconds": 0.5, "who": "script", "text": story[0]["text"]}
    assert (verdict["good"], verdict["seen"], verdict["expected"]) == (True, 2, 2), done.stderr
    assert done.returncode == 0
    assert "/metrics" in done.stderr
