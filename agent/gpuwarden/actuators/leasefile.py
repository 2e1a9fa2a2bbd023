"""The ledger of leases on the disk: of this boot only, written before a setting is touched, replaced whole.

It lies on a tmpfs: what it tells of does not survive a boot either, and heat control needs no disk.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec.structs import replace

from gpuwarden.actuators.leases import Ledger


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    boot_id: str
    ledger: Ledger


class LeaseFile:
    """One ledger's file."""

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self._boot_id = boot_id

    def load(self, now: float) -> Ledger:
        """Return what was kept, as if renewed now. Of another boot, or not readable: nothing."""
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except (OSError, msgspec.DecodeError):
            return Ledger()
        if kept.boot_id != self._boot_id:
            return Ledger()
        return Ledger(leases=tuple(replace(lease, renewed=now) for lease in kept.ledger.leases))

    def keep(self, ledger: Ledger) -> None:
        """Write the ledger. Raises: OSError, and then no setting may be touched."""
        draft = self._path.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(_Kept(boot_id=self._boot_id, ledger=ledger)))
        draft.replace(self._path)
