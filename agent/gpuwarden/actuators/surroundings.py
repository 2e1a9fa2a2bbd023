"""What is seen around the node: who holds which GPU, who is logged in, and what the isolation back end tells."""

from __future__ import annotations

from gpuwarden.actuators.backend import Backend
from gpuwarden.actuators.commands import CommandError, run
from gpuwarden.actuators.holders import holdings
from gpuwarden.actuators.site import Site
from gpuwarden.model.case import Surroundings

_LOGIN_SECONDS = 5.0


def look_around(site: Site, backend: Backend) -> Surroundings:
    """Return the surroundings. What could not be told is None; what reads /proc needs root to see everything."""
    held = holdings(site)
    holders = {bdf: len(held.working(bdf)) for bdf in held.by_bdf} if held.complete else None
    return backend.look(Surroundings(holders=holders, logged_in=logged_in(site)))


def logged_in(site: Site) -> int | None:
    """Return how many sessions of users there are, None where nobody keeps count of them.

    Source: logind. Greeters, cron jobs and user managers are no one who is logged in.
    """
    try:
        listed = run(site, "loginctl", "list-sessions", "--no-legend", "--no-pager", seconds=_LOGIN_SECONDS)
        if listed.code != 0:
            return None
        names = [line.split()[0] for line in listed.out.splitlines() if line.split()]
        if not names:
            return 0
        shown = run(site, "loginctl", "show-session", "--property=Class", *names, seconds=_LOGIN_SECONDS)
    except CommandError:
        return None
    classes = [line.partition("=")[2] for line in shown.out.splitlines() if line.startswith("Class=")]
    if shown.code != 0 or len(classes) != len(names):  # one that ended meanwhile: who is left is seen next time
        return len(names)
    return sum(each.startswith("user") for each in classes)
