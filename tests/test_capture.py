"""Captures: what was observed reads back, leads to the same decisions, and names no board."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

import pytest

from gpuwarden.capture import Capture, CaptureWriter, Taken, read_capture
from gpuwarden.engine import advance, initial
from gpuwarden.errors import InputError
from gpuwarden.model.observation import AnyObservation
from gpuwarden.model.snapshot import NodeState, Presence
from support.story import Story, bdf, uuid

LOST = 15


class Recorded(Story):
    """A story that is captured from a point on."""

    writer: CaptureWriter | None = None

    def take(self, observation: AnyObservation) -> None:
        told = len(self.events)
        super().take(observation)
        if self.writer is not None:
            self.writer.write(observation, self.events[told:])

    def capture(self, path: Path, *, mask: bool = True) -> None:
        self.writer = CaptureWriter(path, self.node, host="rig7.example.org", mask=mask)

    def end(self) -> None:
        assert self.writer is not None
        self.writer.close()
        self.writer = None


def bad_minute(story: Recorded) -> None:
    """Let one GPU fall off the bus and another get hot."""
    story.running(5, 0, 1, core_celsius=60.0)
    story.xid(1, 79, "GPU has fallen off the bus. uuid GPU-00000001, board S1234567.")
    story.failed(1, LOST)
    story.running(80, 0, core_celsius=89.0)


def replayed(capture: Capture) -> tuple[NodeState, list[Taken]]:
    """Return where the engine ends with a capture, and what it made of each observation."""
    node = initial(capture.header.at, capture.header.settings)
    for observation in capture.header.opening:
        node = advance(node, observation).state
    steps = []
    for taken in capture:
        step = advance(node, taken.observation)
        node = step.state
        steps.append(Taken(taken.observation, step.events))
    return node, steps


def names(steps: Iterable[Taken]) -> list[tuple[str, str, str | None]]:
    """Return what was decided, in order."""
    return [(event.name, event.state, event.uuid) for taken in steps for event in taken.events]


@pytest.mark.parametrize("name", ["bad.capture", "bad.capture.gz"])
@pytest.mark.parametrize("mask", [True, False])
def test_a_capture_leads_to_the_same_decisions(tmp_path: Path, name: str, mask: bool) -> None:
    """Every observation comes back in order, and the engine decides on it as it did on the host, masked or not."""
    story = Recorded()
    story.capture(tmp_path / name, mask=mask)
    story.started(2)
    bad_minute(story)
    story.end()
    capture = read_capture(tmp_path / name)
    recorded = list(capture)
    assert not capture.truncated
    node, again = replayed(read_capture(tmp_path / name))
    assert names(again) == names(recorded)
    assert [(told, state) for told, state, _ in names(again)] == [(e.name, e.state) for e in story.events]
    assert ("xid.xid_79", "opened") in {(told, state) for told, state, _ in names(again)}
    assert again == recorded
    assert len(node.incidents) == len(story.node.incidents) > 1


def test_a_capture_that_begins_in_the_middle_knows_who_was_there(tmp_path: Path) -> None:
    """The header brings the engine to where the capture began: GPUs, readings, open incidents, counters."""
    story = Recorded().started(3)
    assert isinstance(story, Recorded)
    bad_minute(story)
    story.blocked(2)
    story.wait(1)
    story.capture(tmp_path / "late.capture", mask=False)
    before = story.node
    story.wait(3)
    story.end()
    capture = read_capture(tmp_path / "late.capture")
    node = initial(capture.header.at, capture.header.settings)
    for observation in capture.header.opening:
        node = advance(node, observation).state
    assert node.settings == before.settings
    assert node.incidents.keys() == before.incidents.keys()
    assert node.incident_totals == before.incident_totals
    assert node.by_index == before.by_index
    for key, gpu in before.gpus.items():
        again = node.gpus[key]
        assert (again.identity, again.index, again.xids) == (gpu.identity, gpu.index, gpu.xids)
        assert again.presence is gpu.presence
    assert node.gpus[uuid(1)].presence is Presence.LOST
    assert node.gpus[uuid(2)].presence is Presence.BLOCKED
    assert node.gpus[uuid(0)].readings.core_celsius == 89.0
    _, again = replayed(read_capture(tmp_path / "late.capture"))
    assert names(again) == names(capture)


def test_no_board_and_no_host_can_be_told_from_a_masked_capture(tmp_path: Path) -> None:
    """UUIDs, serials and the host's name are replaced everywhere, in fields and in text, one name by one other name."""
    story = Recorded()
    story.capture(tmp_path / "c")
    story.started(2)
    bad_minute(story)
    story.end()
    text = (tmp_path / "c").read_text()
    for secret in (uuid(0), uuid(1), '"S0"', '"S1"', "rig7"):
        assert secret not in text
    assert bdf(1) in text
    found = {event.uuid for taken in read_capture(tmp_path / "c") for event in taken.events if event.uuid}
    capture = read_capture(tmp_path / "c")
    node, _ = replayed(capture)
    assert found <= set(node.gpus)
    assert len(node.gpus) == 2
    assert capture.header.masked
    assert capture.header.host.startswith("host-")


def test_two_captures_of_one_host_name_its_boards_differently(tmp_path: Path) -> None:
    """Masked names cannot be joined between files."""
    story = Recorded().started(1)
    assert isinstance(story, Recorded)
    for name in ("a", "b"):
        story.capture(tmp_path / name)
        story.end()
    one, two = (replayed(read_capture(tmp_path / name))[0].gpus for name in ("a", "b"))
    assert one.keys().isdisjoint(two.keys())


def test_without_masking_names_stay(tmp_path: Path) -> None:
    """An operator who says so gets the real names."""
    story = Recorded()
    story.capture(tmp_path / "c", mask=False)
    story.started(1)
    story.end()
    capture = read_capture(tmp_path / "c")
    assert (capture.header.masked, capture.header.host) == (False, "rig7.example.org")
    assert uuid(0) in replayed(capture)[0].gpus


@pytest.mark.parametrize("name", ["c", "c.gz"])
@pytest.mark.parametrize("missing", [1, 40])
def test_a_capture_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path, name: str, missing: int) -> None:
    """A writer that was killed leaves a file without an end: what is whole is read, and that it was cut off is said."""
    story = Recorded()
    story.capture(tmp_path / name)
    story.started(2)
    bad_minute(story)
    story.end()
    whole = list(read_capture(tmp_path / name))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-missing])
    capture = read_capture(tmp_path / name)
    steps = list(capture)
    assert capture.truncated
    assert 0 < len(steps) < len(whole)
    assert steps == whole[: len(steps)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"", "not a capture", id="empty"),
        pytest.param(b"\x7fELF\x00\x01\x02" * 100, "not a capture", id="binary"),
        pytest.param(b'{"format": "other", "version": 1}\n', "not a capture", id="another-format"),
        pytest.param(b'{"format": "gpuwarden-capture", "version": 2}\n', "version 2", id="newer"),
        pytest.param(b'{"format": "gpuwarden-capture", "version": 1}\n', "line 1", id="header-not-whole"),
        pytest.param(b"\x1f\x8b not gzip after all", "line 1", id="broken-gzip"),
        pytest.param(gzip.compress(b"hello\n"), "not a capture", id="other-gzip"),
    ],
)
def test_what_is_no_capture_is_said_to_be_none(tmp_path: Path, content: bytes, says: str) -> None:
    """A wrong file is a message with its name, not a traceback."""
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_capture(tmp_path / "c")


@pytest.mark.parametrize("line", [b"nonsense\n", b'{"type":"Tick"}\n', b'{"type":"Decided","events":[]}\n'])
def test_a_line_that_is_damaged_is_named(tmp_path: Path, line: bytes) -> None:
    """Damage in the middle stops the reading with its line number: what follows would be another story."""
    story = Recorded()
    story.capture(tmp_path / "c")
    story.end()
    whole = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(whole + line + whole)
    with pytest.raises(InputError, match="line 2"):
        list(read_capture(tmp_path / "c"))


def test_a_capture_never_overwrites_and_is_nobody_elses(tmp_path: Path) -> None:
    """An existing file is refused; a new one is for its owner alone, for kernel lines name processes."""
    story = Recorded()
    story.capture(tmp_path / "c")
    story.end()
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="exists"):
        story.capture(tmp_path / "c")
    with pytest.raises(InputError, match="No such file"):
        read_capture(tmp_path / "absent")
