"""Reading the configuration: which file counts, who may have written it, and where files go without one."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from gpuwarden.config.keys import KeyCheck
from gpuwarden.config.rules import broken_rules
from gpuwarden.config.schema import Config
from gpuwarden.errors import ConfigError

DEFAULT_PATH = Path("/etc/gpuwarden/config.toml")
_LARGEST_BYTES = 1 << 20


def load(
    path: Path | None, environ: Mapping[str, str], *, default_path: Path = DEFAULT_PATH, uid: int | None = None
) -> Config:
    """Return the effective configuration.

    The file is `path`, else the one `GPUWARDEN_CONFIG` names, else `default_path` where it exists. Without any, root
    gets the product's defaults and everybody else directories of their own.

    Raises: ConfigError with every problem of the file at once, or with why it cannot be read or trusted.
    """
    uid = os.geteuid() if uid is None else uid
    if path is None and (named := environ.get("GPUWARDEN_CONFIG")):
        path = Path(named)
    if path is None and not _exists(default_path):
        return _without_file(environ, uid)
    chosen = path if path is not None else default_path
    return parse(read_trusted(chosen, uid), str(chosen))


def parse(text: str, name: str = "config") -> Config:
    """Return the configuration a TOML document holds. `name` stands for it in what is reported.

    Raises: ConfigError with every problem at once.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(((name, f"not TOML: {error}"),)) from None
    except RecursionError:
        raise ConfigError(((name, "not TOML: nested too deeply"),)) from None
    return from_document(document)


def from_document(document: Mapping[str, Any]) -> Config:
    """Return the configuration of a decoded TOML document. Raises: ConfigError with every problem at once."""
    checked = KeyCheck(document)
    config = msgspec.convert(checked.accepted, Config)
    problems = [*checked.problems, *broken_rules(config, [path for path, _ in checked.problems])]
    if problems:
        raise ConfigError(tuple(problems))
    return config


def private_directory(path: Path) -> Path:
    """Make `path` a directory that only this user can write to, and return it.

    Raises: ConfigError where something else lies there, or another user owns it: in a shared temporary directory
    somebody may have been there first.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise ConfigError(((str(path), f"cannot be made: {error.strerror}"),)) from None
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(((str(path), "is not a directory"),))
    if found.st_uid != os.geteuid():
        raise ConfigError(((str(path), f"belongs to another user (uid {found.st_uid})"),))
    if found.st_mode & 0o022:
        raise ConfigError(((str(path), "can be written by other users; chmod go-w"),))
    return path


def _exists(path: Path) -> bool:
    """Return whether a file is there, also where this user may not look: then reading it says so."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _without_file(environ: Mapping[str, str], uid: int) -> Config:
    """Return the defaults: the system's directories for root, those of systemd's unit, else the user's own."""
    if uid == 0:
        return Config()
    home = environ.get("HOME") or f"/tmp/gpuwarden-{uid}"  # noqa: S108 - made private before it is used
    temporary = environ.get("TMPDIR") or "/tmp"  # noqa: S108 - likewise
    state = _first(environ, "STATE_DIRECTORY") or _own(environ, "XDG_STATE_HOME") or f"{home}/.local/state/gpuwarden"
    runtime = _first(environ, "RUNTIME_DIRECTORY") or _own(environ, "XDG_RUNTIME_DIR")
    return Config(state_dir=state, runtime_dir=runtime or f"{temporary}/gpuwarden-{uid}")


def _first(environ: Mapping[str, str], name: str) -> str:
    """Return the first of the directories systemd gave to this unit, "" outside of one."""
    return environ.get(name, "").partition(":")[0]


def _own(environ: Mapping[str, str], name: str) -> str:
    """Return our directory below one of the XDG variables; a relative one counts as unset, says their standard."""
    base = environ.get(name, "")
    return f"{base}/gpuwarden" if base.startswith("/") else ""


def read_trusted(path: Path, uid: int) -> str:
    """Return the text of a file that nobody else could have written. Raises: ConfigError saying why not."""
    name = str(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(((name, f"cannot be read: {error.strerror}"),)) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(((name, "is not a file"),))
        if (why := _untrusted(path, found, uid)) is not None:
            raise ConfigError(((name, why),))
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise ConfigError(((name, f"cannot be read: {error.strerror}"),)) from None
    finally:
        os.close(descriptor)
    if len(content) > _LARGEST_BYTES:
        raise ConfigError(((name, "is larger than 1 MiB"),))
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(((name, f"not UTF-8 (at line {line})"),)) from None


def _untrusted(path: Path, file: os.stat_result, uid: int) -> str | None:
    """Return why a third party could have written this file, or None: only root and this user may."""
    if (who := _others(file, uid)) is not None:
        return f"can be written by {who}; refused"
    folder = path.resolve().parent
    found = folder.stat()
    replaceable = not found.st_mode & stat.S_ISVTX and not os.statvfs(folder).f_flag & os.ST_RDONLY
    if replaceable and (who := _others(found, uid)) is not None:
        return f"its directory {folder} can be written by {who}; refused"
    return None


def _others(found: os.stat_result, uid: int) -> str | None:
    """Return who beside root and this user may write what `found` describes, or None.

    A group of the user's own number is the private group most distributions make, so 0664 is no fault there.
    """
    if found.st_uid not in (0, uid):
        return f"its owner (uid {found.st_uid})"
    if found.st_mode & stat.S_IWOTH:
        return "everybody"
    if found.st_mode & stat.S_IWGRP and found.st_gid not in (0, uid):
        return f"its group (gid {found.st_gid})"
    return None
