"""Programs are called by name from our own PATH, with nothing of our environment, and end in time."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from gpuwarden.actuators.commands import CommandError, run
from gpuwarden.actuators.site import Site
from gpuwarden.config import Config


def site(path: Path) -> Site:
    config = Config()
    return Site(config=replace(config, actuator=replace(config.actuator, path=str(path))))


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


def test_a_program_gets_its_arguments_as_they_are_and_our_environment_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shell: what looks like one's syntax is a letter like any other."""
    monkeypatch.setenv("SECRET", "x")
    program(tmp_path, "tool", 'echo "$1|${SECRET-none}|$PATH"')
    assert run(site(tmp_path), "tool", "$(id); *", seconds=5.0).out == f"$(id); *|none|{tmp_path}\n"


def test_a_failure_is_an_answer_with_the_programs_own_words(tmp_path: Path) -> None:
    """The last line of stderr says what went wrong."""
    program(tmp_path, "tool", "echo out; echo first >&2; echo it is broken >&2; exit 3")
    ended = run(site(tmp_path), "tool", seconds=5.0)
    assert (ended.code, ended.words) == (3, "it is broken")


def test_a_program_that_is_missing_did_nothing_and_one_that_is_late_may_have(tmp_path: Path) -> None:
    """`late` tells failed from unknown."""
    with pytest.raises(CommandError) as missing:
        run(site(tmp_path), "tool", seconds=5.0)
    program(tmp_path, "tool", "exec /bin/sleep 60")
    with pytest.raises(CommandError) as late:
        run(site(tmp_path), "tool", seconds=0.2)
    assert (missing.value.late, late.value.late) == (False, True)
