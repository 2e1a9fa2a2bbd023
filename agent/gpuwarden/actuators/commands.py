"""Programs of this host, called by name from a PATH of our own: no shell, no inherited environment, a deadline.

What is started stays in the process group of the effect's child, so that nothing of it outlives the deadline there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from gpuwarden.actuators.site import Site

_MOST_TOLD = 400  # characters of a program's own words


class CommandError(Exception):
    """A program could not be started, or did not end in time. `late`: it may have had an effect."""

    def __init__(self, detail: str, *, late: bool) -> None:
        super().__init__(detail)
        self.late = late


class Ended(NamedTuple):
    """How a program ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """Return what it said about a failure, in one line: its last on stderr, else on stdout."""
        lines = [line.strip() for line in (self.err.strip() or self.out.strip()).splitlines() if line.strip()]
        return lines[-1][:_MOST_TOLD] if lines else f"exit status {self.code}"


def find(site: Site, name: str) -> str | None:
    """Return where a program lies on our PATH; None where it does not."""
    return shutil.which(name, path=site.config.actuator.path)


def run(
    site: Site, name: str, *arguments: str, seconds: float, given: bytes = b"", environ: Mapping[str, str] | None = None
) -> Ended:
    """Run a program to its end and return what it came to, whatever that is.

    `given` is its stdin, `environ` what it needs beyond the little that every program gets. Raises: CommandError where
    there is no such program, or it is not done in time.
    """
    program = find(site, name)
    if program is None:
        raise CommandError(f"{name} is not on this host", late=False)
    environ = {"PATH": site.config.actuator.path, "LC_ALL": "C", "HOME": "/", **(environ or {})}
    try:
        ended = subprocess.run(
            [program, *arguments], input=given, capture_output=True, check=False, timeout=seconds, env=environ, cwd="/"
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"{name} did not end within {seconds:.0f} s", late=True) from None
    except OSError as error:
        raise CommandError(f"{name}: {error.strerror}", late=False) from None
    return Ended(ended.returncode, ended.stdout.decode("utf-8", "replace"), ended.stderr.decode("utf-8", "replace"))
