"""Where leases lie: root's own place where the daemon is root's, or beside the daemon's own files."""

from __future__ import annotations

import os
from pathlib import Path

from gpuwarden.config import Config


def lease_directory(config: Config, *, simulated: bool) -> Path:
    """Return where leases lie: root's own place, which no restart of a service empties, or the daemon's own."""
    if simulated or os.geteuid() != 0:
        return Path(config.runtime_dir) / "leases"
    return Path(config.actuator.socket).parent / "leases"


def lease_directories(config: Config) -> tuple[Path, ...]:
    """Return every place where leases of ours lie. What another user wrote is not ours."""
    places = dict.fromkeys(lease_directory(config, simulated=simulated) for simulated in (False, True))
    return tuple(place for place in places if place.is_dir() and place.stat().st_uid == os.geteuid())
