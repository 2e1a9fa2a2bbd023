"""Random host-hours: faults, jobs, admins, operators, crashes and clocks as they come, then calm, then the reckoning.

`python tests/remediation/random_hours.py 10000 [first seed]` lives that many host-hours and prints what came of them. A
host has four wild hours and then four of calm, in which an operator lets nothing go: whoever is not held by then must
have given everything back.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from gpuwarden.model.case import GIVES_BACK, CaseState, Intent, Outcome
from gpuwarden.model.observation import OperatorAsked, OperatorVerb
from gpuwarden.policy.guards import has_taken
from remediation.test_properties import ANSWERS, HAPPENINGS
from support.ward import Ward, enforcing

TICK_SECONDS = 20.0
WILD_HOURS, CALM_HOURS = 4, 4
HOURS = WILD_HOURS + CALM_HOURS


def lived(seed: int) -> Ward:
    """Return a host after its wild hours and its calm ones."""
    chance = random.Random(seed)
    wild = True

    def answer(intent: Intent) -> tuple[Outcome | None, bool]:
        outcome, effect = chance.choice(ANSWERS) if wild else (Outcome.DONE, True)
        if outcome is Outcome.REFUSED and intent.action in GIVES_BACK:
            outcome = Outcome.FAILED  # who refuses to give back says that it is not ours: the ward itself says so
        return outcome, effect

    on_deadline = chance.choice(("hold", "evict"))
    ward = Ward(
        cards=chance.choice((1, 2, 4)),
        remedy=enforcing(deadline_seconds=1800.0, on_deadline=on_deadline),
        tick_seconds=TICK_SECONDS,
        answers=answer,
    )
    ward.run(40)
    spent = 0.0
    while spent < WILD_HOURS * 3600.0:
        chance.choice(HAPPENINGS)(ward, chance.randrange(10), chance.randrange(10))
        seconds = chance.choice((20, 60, 300, 900, 2400))
        ward.run(seconds)
        spent += seconds
    wild = False
    ward.crash_after = lambda _: False
    ward.stopped, ward.actuator_up, ward.identity = False, True, True
    if ward.mark.startswith("admin"):
        ward.mark = ""
    for card in ward.outside:
        card.jobs = 0
    ward.ask(OperatorVerb.RESUME)
    for name in ward.node.remedy.holds:  # an operator's hold ends, and with it a case that was held there
        ward.take(OperatorAsked(at=ward.at, verb=OperatorVerb.RELEASE, uuid=name, by="test"))
    ward.run(CALM_HOURS * 3600.0)
    return ward


def wrong(ward: Ward) -> list[str]:
    """Return what must not be after the calm: errors, hosts stuck outside HELD, slots and marks left behind."""
    found = list(ward.errors)
    cases = list(ward.node.remedy.cases.values())
    stuck = [case for case in cases if case.state is not CaseState.HELD and not _waits_for_held(ward, case.id)]
    found += [f"{case.id} is stuck in {case.state.value}: {case.guards} {case.why}" for case in stuck]
    holders = [case for case in cases if has_taken(case)]
    if ward.slot and not any(case.slot_taken or case.slot_doubtful for case in holders):
        found.append("a slot is left behind")
    if ward.mark.startswith("gpuwarden") and not any(ward.mark == case.mark for case in holders):
        found.append(f"a mark is left behind: {ward.mark}")
    return found


def _waits_for_held(ward: Ward, name: str) -> bool:
    """Return whether a case only waits because a person has another one, with the host out of service."""
    case = ward.node.remedy.cases[name]
    held = any(has_taken(other) and other.state is CaseState.HELD for other in ward.node.remedy.cases.values())
    return case.state is CaseState.WAITING and "other_case" in case.guards and held


def main() -> None:
    """Live the hours, print the figures, exit 1 if anything was wrong."""
    hours = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    began, totals, bad = time.monotonic(), Counter[str](), 0
    for seed in range(first, first + -(-hours // HOURS)):
        ward = lived(seed)
        totals.update(ward.effects())
        totals["boots"] += ward.boots
        totals["cases"] += ward.course().count("opened")
        totals["held at the end"] += any(c.state is CaseState.HELD for c in ward.node.remedy.cases.values())
        totals["hosts"] += 1
        for line in wrong(ward):
            bad += 1
            print(f"seed {seed}: {line}")
    print(f"{totals['hosts'] * HOURS} host-hours in {time.monotonic() - began:.0f} s; wrong: {bad}")
    print(", ".join(f"{name} {number}" for name, number in sorted(totals.items())))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
