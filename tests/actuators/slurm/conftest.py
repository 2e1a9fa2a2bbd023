"""One real Slurm for all tests here that need it, clean before each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.slurmlab import SlurmLab, slurm_lab


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmLab]:
    """A cluster that is up for the session."""
    with slurm_lab() as lab:
        yield lab


@pytest.fixture
def lab(cluster: SlurmLab) -> SlurmLab:
    """The cluster, with all of its nodes idle."""
    cluster.clean()
    return cluster
