"""Every finding has a runbook page, and the pages say what the catalogue says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from gpuwarden.cli.explain import RUNBOOKS
from gpuwarden.model.kinds import KINDS

DOCS = Path(__file__).parents[2] / "docs"
_SPEC = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
assert _SPEC is not None
assert _SPEC.loader is not None
generate = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(generate)


def test_every_kind_has_its_page_and_there_are_no_others() -> None:
    """An alert's `runbook_url` leads somewhere."""
    assert {path.stem for path in (DOCS / "runbooks").glob("*.md")} == set(KINDS)


def test_the_pages_are_up_to_date() -> None:
    """After a change of the catalogue: `make docs`."""
    stale = [
        name
        for name, kind in KINDS.items()
        if (DOCS / "runbooks" / f"{name}.md").read_text(encoding="utf-8") != generate.page(kind)
    ]
    assert stale == []


def test_alerts_and_explain_lead_to_the_same_page() -> None:
    """One address, in the rules and on the command line."""
    rules = (DOCS.parent / "deploy" / "prometheus" / "gpuwarden.alerts.yml").read_text(encoding="utf-8")
    assert f"{RUNBOOKS}{{{{ $labels.kind }}}}.md" in rules
