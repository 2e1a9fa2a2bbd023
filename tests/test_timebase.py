"""Stamps carry the boot they belong to."""

from __future__ import annotations

from pathlib import Path

from gpuwarden.timebase import Clock, boot_id


def test_the_kernels_boot_id_is_used(tmp_path: Path) -> None:
    """The id is the kernel's, without its newline."""
    source = tmp_path / "boot_id"
    source.write_text("3f5c0b8e-0000-4000-8000-000000000001\n")
    assert boot_id(source) == "3f5c0b8e-0000-4000-8000-000000000001"


def test_an_unreadable_boot_id_matches_no_other_run(tmp_path: Path) -> None:
    """Two runs that cannot read the id never take each other's journal rows for their own boot."""
    assert boot_id(tmp_path / "none") != boot_id(tmp_path / "none")


def test_stamps_do_not_go_back() -> None:
    """Boot time is monotonic within one clock."""
    clock = Clock("boot")
    first, second = clock(), clock()
    assert first.boot_id == "boot"
    assert second.boottime >= first.boottime
