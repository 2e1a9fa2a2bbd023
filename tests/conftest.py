"""Options of the whole test suite, and where its tests of real components can run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parent / "install-packages.sh"
_NODES = (Path("/dev/kmsg"), Path("/dev/fuse"))
_NAMESPACES = ("unshare", "--mount", "--pid", "--net", "--fork", "true")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` rewrites golden files instead of comparing with them; the diff is the review."""
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files instead of comparing")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tests marked `real` where this machine cannot run them; in CI that is a failure instead."""
    real = [item for item in items if item.get_closest_marker("real") is not None]
    if not real or os.environ.get("GPUWARDEN_REQUIRE_REAL"):
        return
    if why := _cannot_be_real():
        for item in real:
            item.add_marker(pytest.mark.skip(reason=f"needs real components, but {why}"))


def _cannot_be_real() -> str:
    """Return why tests of real components cannot run here, "" where they can."""
    if os.geteuid() != 0:
        return "this is not root"
    if absent := [str(node) for node in _NODES if not node.exists()]:
        return f"there is no {', '.join(absent)}"
    if missing := subprocess.run([PACKAGES, "--missing"], capture_output=True, text=True, check=True).stdout.split():
        return f"these packages are missing: {' '.join(missing)}"
    if subprocess.run(_NAMESPACES, capture_output=True, check=False).returncode != 0:
        return "namespaces cannot be made here"
    return ""


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are rewritten in this run."""
    return bool(request.config.getoption("--update-golden"))
