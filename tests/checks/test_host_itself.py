"""The journal, the engine and the scheduler's name of this host: each against what only looks like its fault."""

from __future__ import annotations

import pytest

from gpuwarden.engine import failed
from gpuwarden.model.case import LOOK_FRESH_SECONDS, Surroundings
from gpuwarden.model.finding import Health
from gpuwarden.model.kinds import default_settings
from gpuwarden.model.observation import JournalChanged, SurroundingsSeen
from gpuwarden.model.settings import RemedySettings, Settings
from support.story import Story

JOURNAL, ENGINE, IDENTITY = (f"host.{name}" for name in ("journal_unwritable", "engine_error", "node_identity"))


def opened(story: Story) -> set[str]:
    return {kind for kind, uuid in story.open() if uuid == ""}


# ---- the journal


def journal(story: Story, *, writable: bool, detail: str = "", errors: int = 0) -> None:
    story.take(JournalChanged(at=story.at, writable=writable, detail=detail, size_bytes=1, write_errors=errors))
    story.wait(1)


def test_a_journal_that_cannot_be_written_is_said_and_clears_some_seconds_after_it_can_be_again() -> None:
    """With what the disk said."""
    story = Story().started(1)
    journal(story, writable=False, detail="disk full", errors=1)
    assert opened(story) == {JOURNAL}
    assert story.node.incidents[JOURNAL, ""].evidence == {"detail": "disk full"}
    journal(story, writable=True, errors=1)
    story.wait(8)
    assert opened(story) == {JOURNAL}
    story.wait(2)
    assert opened(story) == set()


def test_a_journal_that_is_new_or_had_errors_once_is_no_finding() -> None:
    """Nothing is said before the journal was opened, nor because a write failed an hour ago."""
    story = Story().started(1)
    story.wait(5)
    journal(story, writable=True, errors=7)
    assert opened(story) == set()


# ---- the engine


def test_an_observation_that_was_set_aside_is_said_for_as_long_as_this_process_lives() -> None:
    """What it would have said is lost: the state may be wrong until the next start, and the host is not well."""
    story = Story().started(1)
    assert opened(story) == set()
    story.node = failed(failed(story.node))
    story.wait(600)
    assert opened(story) == {ENGINE}
    assert story.node.incidents[ENGINE, ""].evidence == {"observations_set_aside": 2}
    assert story.node.health is Health.UNHEALTHY


# ---- the scheduler's node


def host(backend: str) -> Story:
    return Story(Settings(kinds=default_settings(), remedy=RemedySettings(backend=backend))).started(1)


def look(story: Story, identity: bool | None, detail: str = "") -> None:
    seen = Surroundings(actuator_up=True, identity=identity, detail=detail)
    story.take(SurroundingsSeen(at=story.at, surroundings=seen))
    story.wait(1)


def unsure(story: Story) -> bool:
    return (IDENTITY, "") in story.node.unsure


@pytest.mark.parametrize("backend", ["slurm", "kubernetes"])
def test_a_node_that_is_not_this_host_is_a_warning_until_it_is(backend: str) -> None:
    """With the back end's own words."""
    story = host(backend)
    look(story, identity=False, detail="node gpu-07 says it is gpu-08")
    assert opened(story) == {IDENTITY}
    assert story.node.incidents[IDENTITY, ""].evidence == {
        "backend": backend,
        "detail": "node gpu-07 says it is gpu-08",
    }
    look(story, identity=True)
    assert (opened(story), unsure(story)) == (set(), False)


@pytest.mark.parametrize("backend", ["none", "systemd", "command"])
def test_where_no_scheduler_is_configured_there_is_no_node_to_prove(backend: str) -> None:
    """No verdict, and nothing that cannot be told."""
    story = host(backend)
    look(story, identity=None)
    assert (opened(story), unsure(story)) == (set(), False)


def test_what_could_not_be_told_neither_opens_nor_clears() -> None:
    """Before the first look, where the back end could not tell, and when the last look is old."""
    story = host("slurm")
    story.wait(5)
    assert (opened(story), unsure(story)) == (set(), True)
    look(story, identity=None)
    assert (opened(story), unsure(story)) == (set(), True)
    look(story, identity=False)
    look(story, identity=None)
    assert (opened(story), unsure(story)) == ({IDENTITY}, True)
    look(story, identity=True)
    assert (opened(story), unsure(story)) == (set(), False)
    story.wait(LOOK_FRESH_SECONDS)
    assert (opened(story), unsure(story)) == (set(), True)
