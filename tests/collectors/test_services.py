"""What a service manager tells, in its own words, and that a silent one is not taken for stopped services."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwarden.collectors.services import ServiceWatch, Show, from_file, parse
from gpuwarden.model.observation import AnyObservation, ServicesSeen, Stamp

SHOWN = """Id=nvidia-fabricmanager.service
LoadState=loaded
ActiveState=failed
SubState=failed
UnitFileState=enabled

Id=nvidia-persistenced.service
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled

Id=nvidia-imex.service
LoadState=not-found
ActiveState=inactive
SubState=dead
UnitFileState=
"""


def test_units_are_read_in_their_own_words() -> None:
    """A failed unit exists and does not run; one that is not installed does neither."""
    manager, persistenced, imex = parse(SHOWN)
    assert (manager.name, manager.exists, manager.runs, manager.active) == (
        "nvidia-fabricmanager.service",
        True,
        False,
        "failed",
    )
    assert (persistenced.exists, persistenced.runs, persistenced.enabled) == (True, True, "enabled")
    assert (imex.exists, imex.runs) == (False, False)


@given(st.text(max_size=200))
def test_whatever_is_printed_nothing_is_raised(text: str) -> None:
    """Another systemd, another language, garbage: units, or none."""
    assert isinstance(parse(text), tuple)


def stamp() -> Stamp:
    return Stamp("boot", time.monotonic(), time.time())


@asynccontextmanager
async def watching(show: Show, **options: float) -> AsyncIterator[list[ServicesSeen]]:
    """Keep a watch running; yields what it emitted."""
    heard: list[ServicesSeen] = []

    def emit(observation: AnyObservation) -> None:
        assert isinstance(observation, ServicesSeen)
        heard.append(observation)

    task = asyncio.create_task(ServiceWatch(emit, stamp, show=show, **options).run())
    try:
        yield heard
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():  # noqa: ASYNC110 (the condition is about another thread)
            await asyncio.sleep(0.005)


async def test_units_of_a_file_are_told_each_period(tmp_path: Path) -> None:
    """The simulated node's units: what changes in the file is seen with the next look."""
    shown = tmp_path / "units"
    shown.write_text(SHOWN, encoding="utf-8")
    async with watching(from_file(shown), period_seconds=0.02) as heard:
        await until(lambda: bool(heard))
        assert heard[0].readable
        assert [unit.active for unit in heard[0].units] == ["failed", "active", "inactive"]
        shown.write_text(SHOWN.replace("failed", "active"), encoding="utf-8")
        await until(lambda: heard[-1].units[0].runs)


def _fails(error: Exception) -> Show:
    def show() -> str:
        raise error

    return show


@pytest.mark.parametrize(
    ("show", "detail"),
    [
        pytest.param(_fails(FileNotFoundError("systemctl")), "no systemctl here", id="no-systemd"),
        pytest.param(
            _fails(subprocess.CalledProcessError(1, "systemctl", stderr=b"Failed to connect to bus: Host is down\n")),
            "Failed to connect to bus: Host is down",
            id="not-booted-with-it",
        ),
        pytest.param(
            _fails(subprocess.TimeoutExpired("systemctl", 5)), "the service manager does not answer", id="late"
        ),
        pytest.param(lambda: "", "the service manager names no unit", id="empty"),
    ],
)
async def test_no_answer_is_not_known_and_said_once(
    show: Show, detail: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is called stopped because nobody could ask; the log has one line about it."""
    async with watching(show, period_seconds=0.01) as heard:
        await until(lambda: len(heard) >= 3)
    assert {(seen.readable, seen.units, seen.detail) for seen in heard} == {(False, (), detail)}
    assert capsys.readouterr().out.count("services.not_seen") == 1


async def test_a_question_that_hangs_is_not_joined_by_another() -> None:
    """A child in state D keeps one thread; the loop goes on and the answer is unknown meanwhile."""
    release = threading.Event()

    def show() -> str:
        release.wait(5.0)
        return SHOWN

    async with watching(show, period_seconds=0.01, deadline_seconds=0.05) as heard:
        await until(lambda: len(heard) >= 4)
        assert not any(seen.readable for seen in heard)
        assert sum(thread.name == "services" for thread in threading.enumerate()) == 1
        release.set()
        await until(lambda: heard[-1].readable)


@pytest.mark.real
def test_a_real_systemctl_is_asked_in_a_way_it_understands() -> None:
    """Booted or not: units, or the words of a failure; never a usage error."""
    from gpuwarden.collectors.services import systemctl

    try:
        assert len(parse(systemctl())) == 4
    except subprocess.CalledProcessError as error:
        assert b"bus" in error.stderr or b"systemd" in error.stderr
