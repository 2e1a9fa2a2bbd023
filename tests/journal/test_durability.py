"""Whether a journal outlives a reboot: by its history, else by its file system, else not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuwarden.journal.durability import durability, file_system_of

MOUNTS = """\
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
22 21 0:20 / /run rw - tmpfs tmpfs rw
23 21 0:21 / /var/lib/over\\040lay rw - overlay overlay rw
24 21 0:22 / /mnt/share rw - nfs4 server:/x rw
a line that is none
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    """Return a mount table as the kernel writes it."""
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS)
    return path


@pytest.mark.parametrize(
    ("directory", "kind", "durable"),
    [
        ("/var/lib/gpuwarden", "ext4", True),
        ("/run/gpuwarden", "tmpfs", False),
        ("/var/lib/over lay/x", "overlay", False),
        ("/mnt/share/x", "nfs4", False),
    ],
)
def test_the_file_system_decides_without_history(mounts: Path, directory: str, kind: str, durable: bool) -> None:
    """A local disk proves it; memory, a container's layer and what is not known do not."""
    assert file_system_of(Path(directory), mounts) == kind
    assert durability(Path(directory), earlier_boot=False, mounts=mounts).durable is durable


def test_history_of_an_earlier_boot_proves_it_anywhere(mounts: Path) -> None:
    """What has outlived a reboot does so."""
    assert durability(Path("/run/gpuwarden"), earlier_boot=True, mounts=mounts).durable


def test_what_cannot_be_told_counts_as_not_durable(tmp_path: Path) -> None:
    """No mount table, no proof."""
    assert not durability(tmp_path, earlier_boot=False, mounts=tmp_path / "missing").durable
