"""The host and gpuwarden itself."""

from __future__ import annotations

from collections.abc import Iterator

from gpuwarden.checks.rule import Outcome, finding
from gpuwarden.model.finding import Verdict
from gpuwarden.model.snapshot import NodeState


def check(node: NodeState) -> Iterator[Verdict]:
    """Yield what is true now about the journal and the engine."""
    outcomes: dict[str, Outcome] = {
        "host.journal_unwritable": None if node.journal_writable else {"detail": node.journal_detail},
        "host.engine_error": {"observations_set_aside": node.engine_errors} if node.engine_errors else None,
    }
    for kind, outcome in outcomes.items():
        settings = node.settings.kinds[kind]
        found = finding(kind, settings, None, outcome) if settings.enabled else None
        if found is not None:
            yield found
