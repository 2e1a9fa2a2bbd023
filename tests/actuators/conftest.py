"""A laid-out host, and the actuator on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.actuatorlab import Actuator, Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A host with two GPUs, everything enforced."""
    return Lab(tmp_path)


@pytest.fixture
def actuator(lab: Lab) -> Iterator[Actuator]:
    """The actuator of that host, not started yet."""
    made = Actuator(lab)
    try:
        yield made
    finally:
        made.stop()
