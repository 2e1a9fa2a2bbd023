"""The stop switch: a file that an operator makes. Read by the runner and by the actuator, each on its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def read_switch(paths: Iterable[Path]) -> tuple[bool | None, str]:
    """Return whether the switch is on, None where that cannot be told, and which path says so. May block."""
    for path in paths:
        try:
            path.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:
            return None, f"the stop switch {path} cannot be read: {error.strerror}"
        return True, f"the stop switch {path} is on"
    return False, ""
