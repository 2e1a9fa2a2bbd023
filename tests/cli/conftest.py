"""A host, and a daemon behind its status socket."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemonthread import daemon_thread
from support.rig import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A host without a daemon. Its path is short: a Unix socket's has to be."""
    root = Path(tempfile.mkdtemp(prefix="gw-"))
    yield Rig(root)
    shutil.rmtree(root)


@pytest.fixture
def live(rig: Rig) -> Iterator[Rig]:
    """The same host with a daemon that shows eight healthy GPUs."""
    verbs = {name: rig.verb(name) for name in ("forget", "inject", "capture")}
    with daemon_thread(rig.source, rig.runtime_dir, verbs):
        yield rig
