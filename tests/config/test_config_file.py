"""Which file is the configuration, who may have written it, and what holds without one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpuwarden.config import Config, load, parse, private_directory
from gpuwarden.errors import ConfigError

ME = os.geteuid()


def written(path: Path, text: str = "expected_gpus = 4\n", mode: int = 0o644) -> Path:
    """Return `path`, now a file with this text and mode."""
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def refusal(path: Path, uid: int = ME) -> str:
    """Return why a file is refused."""
    with pytest.raises(ConfigError) as caught:
        load(path, {}, uid=uid)
    ((where, why),) = caught.value.problems
    assert where == str(path)
    return why


def test_the_file_named_on_the_command_line_wins(tmp_path: Path) -> None:
    """An argument goes before GPUWARDEN_CONFIG, and that before the file in /etc."""
    one, two, three = (written(tmp_path / f"{n}.toml", f"expected_gpus = {n}\n") for n in (1, 2, 3))
    environ = {"GPUWARDEN_CONFIG": str(two)}
    assert load(one, environ, default_path=three).expected_gpus == 1
    assert load(None, environ, default_path=three).expected_gpus == 2
    assert load(None, {}, default_path=three).expected_gpus == 3


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    """Only the default file may be absent: a named one that is missing is a problem, not a reason for defaults."""
    assert "No such file" in refusal(tmp_path / "absent.toml")
    with pytest.raises(ConfigError):
        load(None, {"GPUWARDEN_CONFIG": str(tmp_path / "absent.toml")}, default_path=tmp_path / "other.toml")


def test_root_without_a_file_gets_the_products_defaults(tmp_path: Path) -> None:
    """Without a file root uses the system's directories, whatever its environment says."""
    environ = {"HOME": "/root", "XDG_STATE_HOME": "/x"}
    assert load(None, environ, default_path=tmp_path / "none", uid=0) == Config()


@pytest.mark.parametrize(
    ("environ", "state", "runtime"),
    [
        pytest.param(
            {"HOME": "/home/a", "XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/run/user/7"},
            "/s/gpuwarden",
            "/run/user/7/gpuwarden",
            id="xdg",
        ),
        pytest.param({"HOME": "/home/a"}, "/home/a/.local/state/gpuwarden", "/tmp/gpuwarden-7", id="home-only"),
        pytest.param(
            {"HOME": "/home/a", "XDG_STATE_HOME": "s", "TMPDIR": "/t"},
            "/home/a/.local/state/gpuwarden",
            "/t/gpuwarden-7",
            id="relative-xdg-counts-as-unset",
        ),
        pytest.param(
            {"STATE_DIRECTORY": "/var/lib/gpuwarden:/b", "RUNTIME_DIRECTORY": "/run/gpuwarden"},
            "/var/lib/gpuwarden",
            "/run/gpuwarden",
            id="systemd-unit",
        ),
    ],
)
def test_an_ordinary_user_without_a_file_gets_directories_of_their_own(
    tmp_path: Path, environ: dict[str, str], state: str, runtime: str
) -> None:
    """An ordinary user needs neither configuration nor root: state and runtime files go where they may write."""
    config = load(None, environ, default_path=tmp_path / "none", uid=7)
    assert (config.state_dir, config.runtime_dir) == (state, runtime)


@pytest.mark.parametrize("mode", [0o646, 0o666, 0o602])
def test_a_file_that_everybody_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    """Whoever can write the configuration commands the agent: for root and for ordinary users alike."""
    assert "by everybody" in refusal(written(tmp_path / "c.toml", mode=mode))


@pytest.mark.real
@pytest.mark.skipif(ME != 0, reason="giving files away needs root")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """The owner must be root or the user who runs us, and a group that may write their own."""
    path = written(tmp_path / "c.toml")
    os.chown(path, 4711, 0)
    assert "its owner (uid 4711)" in refusal(path)
    os.chown(path, 0, 4711)
    path.chmod(0o664)
    assert "its group (gid 4711)" in refusal(path)
    assert load(path, {}, uid=4711).expected_gpus == 4  # the user's private group


def test_a_file_that_others_could_replace_is_refused(tmp_path: Path) -> None:
    """A directory that everybody may write makes its files theirs; with the sticky bit it does not."""
    path = written(tmp_path / "c.toml")
    tmp_path.chmod(0o777)
    assert "its directory" in refusal(path)
    tmp_path.chmod(0o1777)
    assert load(path, {}).expected_gpus == 4


def test_a_link_is_judged_by_where_it_leads(tmp_path: Path) -> None:
    """A symbolic link is followed: what counts is the file that is read."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    link = tmp_path / "c.toml"
    link.symlink_to(written(folder / "real.toml"))
    assert "its directory" in refusal(link)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    """A directory or a FIFO without a writer is said at once, not read."""
    os.mkfifo(tmp_path / "fifo")
    assert refusal(tmp_path / "fifo") == "is not a file"
    assert refusal(tmp_path) == "is not a file"


def test_a_file_that_does_not_parse_says_where(tmp_path: Path) -> None:
    """Broken TOML names the file and the place; so do bytes that are no text, and a file of absurd size."""
    assert "line 2" in refusal(written(tmp_path / "c.toml", "mode = 'shadow'\nmode ==\n"))
    (tmp_path / "b.toml").write_bytes(b"# fine\nmode = '\xff'\n")
    assert "line 2" in refusal(tmp_path / "b.toml")
    assert "1 MiB" in refusal(written(tmp_path / "big.toml", "#" * (1 << 20) + "\n"))
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse("a = " + "[" * 20_000)


def test_a_private_directory_is_made_and_checked(tmp_path: Path) -> None:
    """State of an ordinary user lies where nobody else can write; what lies in the way is not used."""
    made = private_directory(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o777)
    with pytest.raises(ConfigError, match="other users"):
        private_directory(made)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(ConfigError, match="not a directory"):
        private_directory(tmp_path / "link")
