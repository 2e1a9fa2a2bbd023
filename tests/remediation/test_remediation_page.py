"""docs/remediation.md: its tables are the code's, and it names every guard, state and proof."""

from __future__ import annotations

import runpy
from pathlib import Path

from gpuwarden.model.case import CaseState
from gpuwarden.policy.guards import GUARDS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_tables_are_those_of_the_code() -> None:
    """The page is what `python docs/generate_remediation.py` makes of it."""
    text = (DOCS / "remediation.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(DOCS / "generate_remediation.py"))["remediation_page"](text) == text


def test_the_words_know_every_guard_and_state() -> None:
    """A guard is explained beside its row in the table, and each state says what an operator may do."""
    text = (DOCS / "remediation.md").read_text(encoding="utf-8")
    for guard in GUARDS:
        assert text.count(f"`{guard.name}`") >= 2, guard.name
    for state in CaseState:
        assert f"\n| `{state.value}` |" in text
