"""What back ends must remember from one effect to the next: one small file each in the actuator's state directory.

A note is on the disk before the effect it speaks of, and replaced as a whole: a crash leaves the old or the new one.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

VERSION = 1


class NotesError(Exception):
    """The notes cannot be read or written: nothing that needs them may be begun."""


class _File(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    notes: dict[str, str]


class Notes:
    """The notes of one back end, by key."""

    def __init__(self, state_dir: Path, name: str) -> None:
        self._path = state_dir / f"{name}.notes.json"

    def read(self) -> dict[str, str]:
        """Return all notes. Raises: NotesError for a file that is none of ours, or of a later version."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise NotesError(f"{self._path}: {error.strerror}") from None
        except msgspec.DecodeError as error:
            raise NotesError(f"{self._path}: {error}") from None
        if found.version != VERSION:
            raise NotesError(f"{self._path} is of version {found.version}, this is {VERSION}")
        return found.notes

    def write(self, notes: dict[str, str]) -> None:
        """Replace all notes; on the disk when this returns. Raises: NotesError."""
        new = self._path.with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.write(msgspec.json.encode(_File(version=VERSION, notes=notes)))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            raise NotesError(f"{self._path}: {error.strerror}") from None
