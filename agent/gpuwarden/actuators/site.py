"""Where an effect takes place: the actuator's own configuration, and where on this host things lie.

Nothing of it comes from whoever asks. It travels to the child that brings the effect about as one msgpack record.
"""

from __future__ import annotations

import msgspec

from gpuwarden.config import Config


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Directories of the host. The defaults are the real ones; a test lays out its own."""

    sysfs: str = "/sys"
    proc: str = "/proc"
    driver: str = "/proc/driver"
    dev: str = "/dev"
    state_dir: str = "/var/lib/gpuwarden-actuator"
    actions_dir: str = "/etc/gpuwarden/actions.d"
    owner_uid: int = 0  # of what is executed and of the state directory


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What an effect needs to know of where it is."""

    config: Config = Config()
    place: Place = Place()
