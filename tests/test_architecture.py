"""Arrows between rooms, read from the imports: who may know whom (the map is in docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "agent" / "gpuwarden"

EDGE = {"model", "errors", "log", "config", "sidethread"}
ALLOWED: dict[str, set[str]] = {  # room -> rooms it may import, beside itself and the package's own version
    "model": set(),
    "errors": set(),
    "log": set(),
    "timebase": {"model"},
    "inbox": {"model"},
    "sd": set(),
    "sidethread": set(),
    "blindspots": {"collectors"},
    "procwatch": {"exposition", "sidethread"},
    "demo": {"model", "sim"},
    "verbs": EDGE | {"exposition", "sim"},
    "simnode": {"errors"},
    "supervise": {"model"},
    "stopswitch": set(),
    "runner": EDGE | {"stopswitch"},
    "actuators": EDGE | {"runner", "sd", "stopswitch", "timebase"},
    "checks": {"model"},
    "policy": {"model"},
    "remediation": {"model", "policy"},
    "engine": {"model", "checks", "policy", "remediation"},
    "mainloop": {"model", "engine", "inbox"},
    "config": {"model", "errors"},
    "nvml": EDGE,
    "collectors": EDGE,
    "journal": EDGE,
    "capture": EDGE,
    "exposition": EDGE | {"engine"},
    "sim": EDGE | {"engine", "nvml"},
    "replay": EDGE | {"engine", "capture"},
}
JOINS_EVERYTHING = {"daemon", "cli"}


def room_of(path: Path) -> str:
    """Return the room a file belongs to: its folder, or its name up to the first underscore at the top level."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0] if len(parts) > 1 else parts[0].partition("_")[0]


def imports_of(path: Path) -> set[str]:
    """Return every absolute module name a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def rooms_imported(path: Path) -> set[str]:
    """Return the rooms of this package a file imports."""
    rooms = set()
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "gpuwarden" and len(parts) > 1 and parts[1] != "__version__":
            rooms.add(parts[1].partition("_")[0])
    return rooms


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(PACKAGE))) for p in FILES])
def test_arrows_point_inward(path: Path) -> None:
    """A room imports only the rooms its arrow allows; only the daemon and the CLI join everything."""
    room = room_of(path)
    if room in JOINS_EVERYTHING:
        return
    assert room in ALLOWED, f"{room} is a new room: give it a row in ALLOWED"
    assert rooms_imported(path) <= ALLOWED[room] | {room}


def test_only_the_nvml_room_imports_pynvml() -> None:
    """One importer of pynvml: everything else sees readings."""
    importers = {room_of(path) for path in FILES if any(n.split(".")[0] == "pynvml" for n in imports_of(path))}
    assert importers <= {"nvml"}


def test_the_core_reads_no_clock_and_does_no_io() -> None:
    """engine, checks, policy and model import nothing that waits, reads a clock or touches the world."""
    forbidden = {
        "asyncio",
        "time",
        "os",
        "socket",
        "subprocess",
        "threading",
        "logging",
        "structlog",
        "random",
        "sqlite3",
    }
    guilty = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in FILES
        if room_of(path) in {"engine", "checks", "policy", "model"}
        for name in imports_of(path)
        if name.split(".")[0] in forbidden
    }
    assert guilty == set()


def test_config_alone_reads_the_environment() -> None:
    """`os.environ` and `os.getenv` appear where configuration is read, and where a child's environment is made."""
    allowed = {"config", "daemon", "cli", "sd", "nvml", "sim", "actuators"}
    guilty = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if room_of(path) not in allowed and ("os.environ" in (text := path.read_text("utf-8")) or "os.getenv" in text)
    }
    assert guilty == set()
