"""Executables of the operator: rungs `command:<name>`, and the isolation back end `command`.

They lie in `/etc/gpuwarden/actions.d`, belong to root and can be written by nobody else; nobody names a path to us.
One is called with a verb as its only argument and JSON on stdin. Exit status: 0 done, 75 not now (try again), 77 not
ours any more (left alone), anything else failed. It has the intent's deadline; then its process group is killed.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import msgspec
from msgspec.structs import replace

from gpuwarden.actuators.backend import Answer, NoBackend, done, failed, refused, unknown
from gpuwarden.actuators.commands import CommandError, Ended
from gpuwarden.actuators.site import Site
from gpuwarden.model.case import Intent, Surroundings

_TRY_AGAIN, _NOT_OURS = 75, 77  # EX_TEMPFAIL, EX_NOPERM
_LOOK_SECONDS = 5.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class _Given(msgspec.Struct, frozen=True, kw_only=True):
    """What an executable reads on stdin. Its keys are a contract."""

    version: int = 1
    verb: str
    intent: str = ""
    case: str = ""
    gpu_uuid: str = ""
    gpu_pci_bus_id: str = ""
    gpu_serial: str = ""
    mark: str = ""
    deadline_seconds: float = 0.0


class _Looked(msgspec.Struct, frozen=True, kw_only=True):
    """What one may write to stdout when it is asked to look. Unknown keys are left alone."""

    isolated: bool | None = None
    mark: str = ""
    jobs: int | None = None


def run_named(site: Site, intent: Intent) -> Answer:
    """Run the executable of a rung `command:<name>`, verb `act`."""
    return _answer(_call(site, intent.command, "act", intent, intent.deadline_seconds))


class CommandBackend(NoBackend):
    """The executable that `[isolation] command` names: verbs `isolate`, `release`, `evict` and `look`."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def isolate(self, intent: Intent) -> Answer:
        """Have it keep work away."""
        return self._verb("isolate", intent)

    def release(self, intent: Intent) -> Answer:
        """Have it let work back."""
        return self._verb("release", intent)

    def evict(self, intent: Intent) -> Answer:
        """Have it end the work."""
        return self._verb("evict", intent)

    def look(self, around: Surroundings) -> Surroundings:
        """Ask it whether the host is isolated. What it does not say is not known."""
        try:
            ended = _call(self._site, self._site.config.isolation.command, "look", None, _LOOK_SECONDS)
            if ended.code != 0:
                return around
            said = msgspec.json.decode(ended.out.encode(), type=_Looked)
        except (CommandError, msgspec.DecodeError) as error:
            return replace(around, detail=f"{self._site.config.isolation.command} look: {error}")
        return replace(around, isolated=said.isolated, mark=said.mark, jobs=said.jobs)

    def _verb(self, verb: str, intent: Intent) -> Answer:
        return _answer(_call(self._site, self._site.config.isolation.command, verb, intent, intent.deadline_seconds))


def exists(site: Site, name: str) -> bool:
    """Return whether there is something of that name in actions.d."""
    return _NAME.fullmatch(name) is not None and (Path(site.place.actions_dir) / name).exists()


def distrust(site: Site, name: str) -> str:
    """Return why an executable must not be run, "" where it may: a file of its owner's that nobody else can change."""
    if _NAME.fullmatch(name) is None:
        return f"{name!r} is no name of an action"
    folder = Path(site.place.actions_dir)
    for path, wanted in ((folder, stat.S_ISDIR), (folder / name, stat.S_ISREG)):
        try:
            found = path.lstat()
        except OSError as error:
            return f"{path}: {error.strerror}"
        if not wanted(found.st_mode):
            return f"{path} is not what it should be (a link?)"
        if found.st_uid != site.place.owner_uid:
            return f"{path} belongs to uid {found.st_uid}"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"{path} can be written by others"
    return "" if os.access(folder / name, os.X_OK) else f"{folder / name} is not executable"


def _call(site: Site, name: str, verb: str, intent: Intent | None, seconds: float) -> Ended:
    """Run one to its end. Raises: CommandError where it may not be run, cannot be started, or is late."""
    if why := distrust(site, name):
        raise CommandError(why, late=False)
    given = _Given(verb=verb, deadline_seconds=seconds)
    if intent is not None:
        given = replace(
            given, intent=intent.id, case=intent.case, gpu_uuid=intent.uuid or "", gpu_pci_bus_id=intent.bdf,
            gpu_serial=intent.serial, mark=intent.mark,
        )  # fmt: skip
    environ = {"PATH": site.config.actuator.path, "LC_ALL": "C", "HOME": "/"}
    try:
        ended = subprocess.run(
            [str(Path(site.place.actions_dir) / name), verb], input=msgspec.json.encode(given) + b"\n",
            capture_output=True, check=False, timeout=seconds, env=environ, cwd="/",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CommandError(f"{name} {verb} did not end within {seconds:.0f} s", late=True) from None
    except OSError as error:
        raise CommandError(f"{name}: {error.strerror}", late=False) from None
    return Ended(ended.returncode, ended.stdout.decode("utf-8", "replace"), ended.stderr.decode("utf-8", "replace"))


def _answer(ended: Ended) -> Answer:
    words = ended.words if ended.err.strip() or ended.out.strip() else f"exit status {ended.code}"
    if ended.code == 0:
        return done(words if ended.out.strip() else "")
    if ended.code == _NOT_OURS:
        return refused(words)
    if ended.code < 0:
        return unknown(f"ended by signal {-ended.code}")
    return failed(f"not now: {words}" if ended.code == _TRY_AGAIN else words)
