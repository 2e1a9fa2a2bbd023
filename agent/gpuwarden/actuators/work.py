"""What the actuator hands to a child: a site, and an effect, a look, or the order to put back what was left."""

from __future__ import annotations

import msgspec

from gpuwarden.actuators.site import Site
from gpuwarden.actuators.wire import Ask, Look


class Tidy(msgspec.Struct, frozen=True, tag="tidy"):
    """Put back what an effect that was cut off had put aside. Only the actuator itself asks for this."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One child's work."""

    site: Site
    task: Ask | Look | Tidy
