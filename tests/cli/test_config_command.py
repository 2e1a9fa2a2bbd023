"""`gpuwarden config check|show`: all mistakes at once, exit 78, and a print-out that reads back."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpuwarden.cli import main
from gpuwarden.config import parse

FIVE_MISTAKES = """
mode = "on"
expected_gpu = 8
[poll]
fast_seconds = "1"
[checks."thermal.core_near_limit"]
hold = 5.0
[web]
listen = 9878
"""


def config(*arguments: str) -> Result:
    """Run `gpuwarden config ...` as a host without any configuration would."""
    return CliRunner(env={"GPUWARDEN_CONFIG": None}).invoke(main, ["config", *arguments])


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A configuration file with five mistakes."""
    path = tmp_path / "config.toml"
    path.write_text(FIVE_MISTAKES)
    path.chmod(0o600)
    return path


def test_five_mistakes_are_told_at_once(written: Path) -> None:
    """Each with its key, on stderr, exit 78."""
    result = config("check", str(written))
    assert (result.exit_code, result.stdout) == (78, "")
    for key in ("mode", "expected_gpu", "poll.fast_seconds", 'checks."thermal.core_near_limit".hold', "web.listen"):
        assert f"  {key}: " in result.stderr
    assert "5 problems" in result.stderr


def test_mistakes_as_json(written: Path) -> None:
    """For programs: the same problems by key, the same exit code."""
    result = config("check", str(written), "--format", "json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["ok"], len(found["problems"])) == (78, False, 5)


def test_mistakes_of_the_counters_file_are_the_configurations(tmp_path: Path) -> None:
    """`check` reads what the daemon would read, and names the lines."""
    counters = tmp_path / "counters.csv"
    counters.write_text("DCGM_FI_DEV_GPU_TEMP, gauge, fine\nDCGM_FI_DEV_X, gauge, a\nDCGM_FI_DEV_FB_USED, g, b\n")
    path = tmp_path / "config.toml"
    path.write_text(f'[exposition]\ndcgm = true\ndcgm_counters = "{counters}"\n')
    for file in (counters, path):
        file.chmod(0o600)
    result = config("check", str(path))
    assert result.exit_code == 78
    assert f"exposition.dcgm_counters: {counters} line 2: no such DCGM field" in result.stderr
    assert f"exposition.dcgm_counters: {counters} line 3: no such type" in result.stderr


def test_a_right_file_is_ok(written: Path) -> None:
    """Every key that is accepted has its effect: nothing else is said."""
    written.write_text('mode = "shadow"\n[thermal]\ngovernor = true\n')
    result = config("check", str(written))
    assert result.exit_code == 0
    assert result.stdout == f"{written}: ok\n"


def test_what_is_shown_reads_back(written: Path) -> None:
    """`config show` is TOML that means the same configuration, with every default."""
    written.write_text("expected_gpus = 8\n[poll]\nfast_seconds = 2.0\n")
    shown = config("show", "--config", str(written)).stdout
    assert parse(shown).expected_gpus == 8
    assert tomllib.loads(shown)["poll"]["fast_seconds"] == 2.0
    assert tomllib.loads(shown)["poll"]["deadline_seconds"] == 5.0


def test_what_is_shown_as_json_has_the_same_keys(written: Path) -> None:
    """The same tree for programs."""
    written.write_text("expected_gpus = 8\n")
    assert json.loads(config("show", "--config", str(written), "--format", "json").stdout)["expected_gpus"] == 8


def test_a_file_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    """Named and exit 78: a daemon would not start with it either."""
    result = config("check", str(tmp_path / "none.toml"))
    assert result.exit_code == 78
    assert "none.toml: cannot be read" in result.stderr
