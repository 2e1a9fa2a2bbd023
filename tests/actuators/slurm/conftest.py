"""One real Slurm for the tests of a file that need it, clean before each, and gone with the last."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.slurmlab import SlurmLab, slurm_lab


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmLab]:
    """A cluster that is up for the tests of one file: it starts in a third of a second."""
    with slurm_lab() as lab:
        yield lab


@pytest.fixture
def lab(cluster: SlurmLab) -> SlurmLab:
    """The cluster, with all of its nodes idle."""
    cluster.clean()
    return cluster
