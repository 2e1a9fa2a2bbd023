"""What stands in a node's `Extra`: read as it was written, other people's left alone, the higher count wins."""

from __future__ import annotations

import pytest

from gpuwarden.actuators.slurm_record import Record, at_least, may_write, of_intent, parse_record, words_of
from gpuwarden.model.case import ActionKind, Intent
from gpuwarden.model.stamp import Stamp

AT = Stamp("b", 1000.0, 1_790_000_000.0)


@pytest.mark.parametrize(
    "record",
    [
        Record(),
        Record(case="9f3c-4", rung=1, attempt=2),
        Record(case="9f3c-4", held=True),
        Record(rests={0: 1_790_000_000, 7: 1_790_000_500}),
        Record(case="9f3c-4", rests={3: 1_790_000_000}),
    ],
)
def test_a_record_comes_back_as_it_was_written(record: Record) -> None:
    """Writing and reading are inverse."""
    assert parse_record(words_of(record)) == record


@pytest.mark.parametrize("extra", ["rack 7", "gpuwardens case=1", "case=1 rung=4"])
def test_what_others_wrote_is_no_record_and_is_kept(extra: str) -> None:
    """Only words that begin with our name are ours."""
    assert parse_record(extra) == Record() and not may_write(extra)


def test_garbage_behind_our_name_is_an_empty_record() -> None:
    """Nothing is guessed."""
    assert parse_record("gpuwarden rung=x attempt=-1 held=yes rest=1,2@,@3") == Record()
    assert may_write("") and may_write("gpuwarden rung=x")


def test_an_intents_id_says_how_far_its_case_is() -> None:
    """Rung and attempt are in the id."""
    intent = Intent(id="9f3c-4/2.1.0/isolate", case="9f3c-4", action=ActionKind.ISOLATE, made=AT)
    assert of_intent(intent) == Record(case="9f3c-4", rung=2, attempt=1)


def test_the_higher_count_wins_within_a_case() -> None:
    """A host that forgot how far it was does not begin anew; another case does."""
    old = Record(case="a", rung=2, attempt=0)
    assert at_least(Record(case="a", rung=0, attempt=5), old) == Record(case="a", rung=2, attempt=0)
    assert at_least(Record(case="a", rung=2, attempt=1), old) == Record(case="a", rung=2, attempt=1)
    assert at_least(Record(case="b"), old) == Record(case="b")
