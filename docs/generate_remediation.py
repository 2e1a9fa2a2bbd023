"""Writes the tables of docs/remediation.md from the code: `python docs/generate_remediation.py`.

What lies between two marks is made anew; the words around them are written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from gpuwarden.model.case import DISRUPTIVE, GIVES_BACK, ActionKind, CaseState, Treatment
from gpuwarden.model.kinds import KINDS
from gpuwarden.policy.guards import GUARDS
from gpuwarden.policy.ladder import RECOVERY, RUNGS, ladder
from gpuwarden.remediation.machine import ALLOWED, MAY_INTEND
from gpuwarden.remediation.verify import PROOFS

PAGE = Path(__file__).with_name("remediation.md")
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows))
    return "\n".join(lines) + "\n"


def _course(found: Treatment) -> str:
    return " → ".join(f"`{rung.name}`" for rung in found.rungs)


def _ladder() -> str:
    rows = (
        (
            f"[`{name}`](runbooks/{name}.md)",
            found.urgency.value,
            _course(found),
            f"{found.patience_seconds:.0f} s" if found.patience_seconds else "",
        )
        for name, found in ladder().items()
        if found.rungs
    )
    return _table(("finding", "urgency", "rungs", "patience"), rows)


def _left() -> str:
    names = (f"[`{name}`](runbooks/{name}.md)" for name in KINDS if not ladder()[name].rungs)
    return ", ".join(names) + "\n"


def _recovery() -> str:
    rows = ((str(value), found.urgency.value, _course(found)) for value, found in RECOVERY.items())
    return _table(("recovery action", "urgency", "rungs"), rows)


def _rungs() -> str:
    rows = (
        (
            f"`{name}`",
            str(rung.attempts),
            f"{rung.wait_seconds:.0f} s",
            f"{rung.deadline_seconds:.0f} s",
            f"{rung.proof_seconds:.0f} s",
            f"{rung.soak_seconds:.0f} s",
        )
        for name, rung in RUNGS.items()
        if rung.action is not None
    )
    return _table(("rung", "attempts", "between two", "deadline", "proven within", "stays so for"), rows)


def _actions(actions: frozenset[ActionKind]) -> str:
    every = frozenset(ActionKind) - {ActionKind.MITIGATE}
    known = {every: "everything", every - GIVES_BACK: "everything but giving back", DISRUPTIVE: "what disrupts"}
    return known.get(actions) or ", ".join(f"`{action.value}`" for action in ActionKind if action in actions)


def _guards() -> str:
    return _table(("guard", "holds"), ((f"`{guard.name}`", _actions(guard.holds)) for guard in GUARDS))


def _proofs() -> str:
    rows = []
    for proof in PROOFS:
        after = ", ".join(f"`{action.value}`" for action in ActionKind if action in proof.after)
        rows.append((f"`{proof.name}`", after + (", nothing was done" if None in proof.after else "")))
    return _table(("what must be seen", "after"), rows)


def _states() -> str:
    rows = (
        (
            f"`{state.value}`",
            ", ".join(f"`{after.value}`" for after in CaseState if after in ALLOWED[state]),
            ", ".join(f"`{action.value}`" for action in ActionKind if action in MAY_INTEND.get(state, ())),
        )
        for state in CaseState
    )
    return _table(("state", "is followed by", "effects it may have"), rows)


_TABLES: dict[str, Callable[[], str]] = {
    "ladder": _ladder,
    "left": _left,
    "recovery": _recovery,
    "rungs": _rungs,
    "guards": _guards,
    "proofs": _proofs,
    "states": _states,
}


def remediation_page(text: str) -> str:
    """Return the page with its tables as the code has them. Raises: KeyError for a mark that names no table."""
    return _BLOCK.sub(lambda found: found[1] + _TABLES[found[2]]() + found[3], text)


if __name__ == "__main__":
    PAGE.write_text(remediation_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
