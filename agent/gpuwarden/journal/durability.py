"""Whether a journal outlives a reboot: proven by history of an earlier boot, or by the file system it lies on."""

from __future__ import annotations

from pathlib import Path

from gpuwarden.model.case import Memory

_MOUNTS = Path("/proc/self/mountinfo")
_FORGETFUL = frozenset({"tmpfs", "ramfs", "overlay", "squashfs", "devtmpfs", "aufs"})
_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs"})
"""File systems of local disks; one that is not named here proves nothing."""


def durability(state_dir: Path, *, earlier_boot: bool, mounts: Path = _MOUNTS) -> Memory:
    """Return whether what is written below `state_dir` is there after a reboot. What cannot be told counts as not."""
    if earlier_boot:
        return Memory(durable=True, detail="it holds history of an earlier boot")
    found = file_system_of(state_dir, mounts)
    if found in _LOCAL:
        return Memory(durable=True, detail=f"it lies on {found}")
    why = "which a reboot empties" if found in _FORGETFUL else "which proves nothing"
    return Memory(
        durable=False, detail=f"no history of an earlier boot, and it lies on {found or 'nothing known'}, {why}"
    )


def file_system_of(path: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type of the file system a path lies on, "" where that cannot be told. Source: proc(5), mountinfo."""
    try:
        resolved = path.resolve()
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, types = before.split(), after.split()
        if len(fields) < 5 or not types:
            continue
        point = Path(fields[4].encode().decode("unicode_escape"))
        if resolved.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), types[0]
    return kind
