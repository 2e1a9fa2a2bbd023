"""The whole command line: every command explains itself, errors have their codes, long waits are said."""

from __future__ import annotations

import re
import threading
import time

import pytest
from click.testing import CliRunner

from gpuwarden.cli import COMMANDS, main
from gpuwarden.cli.failure import tell_failure
from gpuwarden.cli.output import cell, evidence_text, progress
from gpuwarden.errors import ConfigError, DaemonUnreachableError, GpuwardenError, InputError


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    """Help names the command, says what it does, and shows how it is called."""
    result = CliRunner().invoke(main, [name, "--help"], prog_name="gpuwarden")
    assert result.exit_code == 0, result.output
    assert f"Usage: gpuwarden {name}" in result.stdout
    if name == "demo":  # nothing to give it
        return
    examples = result.stdout.partition("Usage: ")[2]
    assert re.search(rf"^ +(?:\w+ \| |sudo )?gpuwarden {name}\b", examples, re.MULTILINE)


def test_the_overview_names_every_command() -> None:
    """In the order of the table, each with its line."""
    text = CliRunner().invoke(main, ["--help"]).stdout
    assert all(f"  {name} " in text and line in text for name, (_, line) in COMMANDS.items())


def test_what_is_no_command_is_a_usage_error() -> None:
    """Exit 2, and the name."""
    result = CliRunner().invoke(main, ["chekc"])
    assert result.exit_code == 2
    assert "chekc" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"), [(InputError("x"), 2), (DaemonUnreachableError("x"), 3), (ConfigError((("k", "x"),)), 78)]
)
def test_exit_codes_are_a_contract(error: GpuwardenError, code: int) -> None:
    """Each class of error has its own."""
    assert error.exit_code == code


def test_an_error_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines of a message stay lines, everything else that is not printable is escaped."""
    tell_failure(InputError("first\x1b[2J\nsecond"))
    tell_failure(ConfigError((("key\x07", "wrong"),)))
    errors = capsys.readouterr().err
    assert errors.startswith("gpuwarden: first\\x1b[2J\n  second\n")
    assert "1 problem:" in errors
    assert "\x07" not in errors


def test_a_long_wait_is_said_once_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """And a short one is not."""
    said = ""
    until = time.monotonic() + 5
    with progress("waiting for Godot", after_seconds=0.01):
        while not said and time.monotonic() < until:
            threading.Event().wait(0.01)  # let the thread that says it have its turn
            said = capsys.readouterr().err
    with progress("never said", after_seconds=60):
        pass
    assert said == "waiting for Godot ...\n"
    assert capsys.readouterr() == ("", "")


def test_evidence_is_readable_and_safe() -> None:
    """Numbers short, text with blanks quoted, nothing unprintable, absence as a dash."""
    evidence = {"core_celsius": 91.0, "ok": True, "text": "a b", "serial": "", "why": None, "evil": "\x1b"}
    assert evidence_text(evidence) == 'core_celsius=91 ok=yes text="a b" serial="" why=- evil=\\x1b'
    assert (cell(None), cell(""), cell(0)) == ("-", "-", "0")
