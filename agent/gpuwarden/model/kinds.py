"""The closed catalogue of finding kinds: one row per kind, the defaults of its judgement beside it."""

from __future__ import annotations

import msgspec

from gpuwarden.model.settings import KindSettings
from gpuwarden.model.severity import Severity


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One finding kind: `name` is `room.what`; `title` fits a page's first line; `meaning` is one or two sentences."""

    name: str
    title: str
    meaning: str
    defaults: KindSettings
    source: str = ""

    @property
    def room(self) -> str:
        """Return the room, which is also the file in `checks/`."""
        return self.name.partition(".")[0]


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="presence.gpu_lost",
            title="GPU lost",
            meaning="The driver no longer reaches the GPU.",
            defaults=KindSettings(severity=Severity.CRITICAL),
        ),
    )
}
