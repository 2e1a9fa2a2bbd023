"""The actuator as a process: its directories, its lock, its socket, its end.

One at a time: the lock in its state directory is held for as long as it lives, so that no id can be done twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pwd
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import structlog

from gpuwarden.actuators.performer import Performer
from gpuwarden.actuators.server import Server
from gpuwarden.actuators.site import Place, Site
from gpuwarden.config import Config
from gpuwarden.errors import InputError
from gpuwarden.timebase import Clock

IDLE_SECONDS = 60.0


def place_of(config: Config, uid: int) -> Place:
    """Return where an actuator of this user lies: its state beside the daemon's, which the daemon can write to."""
    return Place(state_dir=f"{config.state_dir.rstrip('/')}-actuator", owner_uid=uid)


def run_actuator(
    site: Site,
    *,
    reread: Callable[[], Config] | None = None,
    listening: socket.socket | None = None,
    idle_seconds: float | None = None,
) -> None:
    """Serve until SIGTERM, or until idle for `idle_seconds`. Raises: InputError where it cannot start.

    `reread` gives the configuration as it is before each effect; it raises ConfigError for one that cannot be used.
    """
    lock = _locked(Path(site.place.state_dir), site.place.owner_uid)
    try:
        found = listening if listening is not None else _bound(Path(site.config.actuator.socket), site)
        asyncio.run(_serve(Performer(site, Clock(None), reread), site, found, idle_seconds))
    finally:
        os.close(lock)


async def _serve(performer: Performer, site: Site, listening: socket.socket, idle_seconds: float | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await performer.open()
    log = structlog.get_logger()
    log.info("actuator.ready", socket=str(listening.getsockname()), pid=os.getpid())
    await Server(performer, _uids(site), idle_seconds=idle_seconds).serve(listening, stop)
    log.info("actuator.ended", reason="told to" if stop.is_set() else "idle")


def _uids(site: Site) -> frozenset[int]:
    """Return the users that may ask. A user that does not exist may not."""
    uids = {0, os.geteuid()}
    with contextlib.suppress(KeyError):
        uids.add(pwd.getpwnam(site.config.actuator.user).pw_uid)
    return frozenset(uids)


def _locked(directory: Path, owner_uid: int) -> int:
    """Make the state directory and lock it. Raises: InputError where it is not ours alone, or another one runs."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner_uid or found.st_mode & 0o022:
            raise InputError(f"{directory} is not a directory that only its owner (uid {owner_uid}) can write to")
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise InputError(f"{directory}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise InputError(f"another actuator runs on {directory}") from None
    return lock


def _bound(path: Path, site: Site) -> socket.socket:
    """Return a listening socket at a path, open to root and to the group of `[actuator] user`. Raises: InputError."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if path.exists() and stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()  # of one that is gone: the lock is ours
        mask = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(mask)
        if os.geteuid() == 0:
            with contextlib.suppress(KeyError):
                os.chown(path, 0, pwd.getpwnam(site.config.actuator.user).pw_gid)
                path.chmod(0o660)
        listening.listen(16)
    except OSError as error:
        listening.close()
        raise InputError(f"{path}: {error.strerror}") from None
    return listening
