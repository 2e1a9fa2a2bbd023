"""What back ends remember: replaced as a whole, never misread."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuwarden.actuators.notes import Notes, NotesError


def test_what_was_noted_is_there_for_the_next(tmp_path: Path) -> None:
    """Each effect is a process of its own: what one writes another reads."""
    assert Notes(tmp_path, "systemd").read() == {}
    Notes(tmp_path, "systemd").write({"miner.service": "c1"})
    assert Notes(tmp_path, "systemd").read() == {"miner.service": "c1"}
    assert Notes(tmp_path, "slurm").read() == {}


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version":2,"notes":{}}', b'{"version":1,"notes":[1]}', b"\xff"])
def test_notes_that_cannot_be_understood_are_no_empty_notes(tmp_path: Path, content: bytes) -> None:
    """Nothing to give back is a statement: it is not made from a file that says something else."""
    (tmp_path / "systemd.notes.json").write_bytes(content)
    with pytest.raises(NotesError):
        Notes(tmp_path, "systemd").read()


def test_a_note_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """Without a directory there is nothing to write to, and that is said."""
    with pytest.raises(NotesError):
        Notes(tmp_path / "missing", "systemd").write({"a.service": "c1"})
