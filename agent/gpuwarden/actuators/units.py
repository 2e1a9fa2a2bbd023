"""The isolation back end `systemd`: configured units are stopped, and those that were stopped are started again."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from gpuwarden.actuators.backend import Answer, NoBackend, done, failed, refused
from gpuwarden.actuators.commands import CommandError, run
from gpuwarden.actuators.notes import Notes, NotesError
from gpuwarden.actuators.site import Site
from gpuwarden.model.case import Intent, Surroundings

_ASK_SECONDS = 5.0
_CHANGE_SECONDS = 45.0
_RUNNING = ("active", "activating", "reloading", "refreshing")
_MARK = "mark"


class Units(NoBackend):
    """Units of `[isolation] units`. What is noted: the mark, and each unit that we stopped."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._notes = Notes(Path(site.place.state_dir), "units")

    def isolate(self, intent: Intent) -> Answer:
        """Stop the units that run, having written down which. Asked again, it stops what runs again."""
        notes = self._notes.read()
        if notes.get(_MARK, intent.mark) != intent.mark:
            return refused(f"units are stopped already: {notes[_MARK]}")
        states = states_of(self._site, self._site.config.isolation.units)
        running = [unit for unit, state in states.items() if state in _RUNNING]
        self._notes.write({**notes, _MARK: intent.mark, **dict.fromkeys(running, "stopped")})
        if running:
            ended = run(self._site, "systemctl", "stop", "--no-ask-password", "--", *running, seconds=_CHANGE_SECONDS)
            if ended.code != 0:
                return failed(f"systemctl stop: {ended.words}")
        left = [unit for unit, state in states_of(self._site, running).items() if state in _RUNNING]
        return failed(f"still running: {', '.join(left)}") if left else done(_said("stopped", running))

    def release(self, intent: Intent) -> Answer:
        """Start the units that this mark stopped, no others."""
        notes = self._notes.read()
        if notes.get(_MARK) != intent.mark:
            return refused(f"not ours: {notes[_MARK]}" if _MARK in notes else "no units are stopped by us")
        stopped = [unit for unit in notes if unit != _MARK]
        if stopped:
            ended = run(self._site, "systemctl", "start", "--no-ask-password", "--", *stopped, seconds=_CHANGE_SECONDS)
            if ended.code != 0:
                return failed(f"systemctl start: {ended.words}")
        self._notes.write({})
        return done(_said("started", stopped))

    def look(self, around: Surroundings) -> Surroundings:
        """Tell whether we have stopped the units and none of them runs."""
        try:
            notes = self._notes.read()
            states = states_of(self._site, self._site.config.isolation.units)
        except (CommandError, NotesError) as error:
            return replace(around, detail=str(error))
        silent = not any(state in _RUNNING for state in states.values())
        return replace(around, isolated=_MARK in notes and silent, mark=notes.get(_MARK, ""))


def states_of(site: Site, units: list[str] | tuple[str, ...]) -> dict[str, str]:
    """Return the ActiveState of units; a unit that does not exist is `inactive`. Raises: CommandError."""
    if not units:
        return {}
    shown = run(
        site, "systemctl", "show", "--no-pager", "--property=Id,ActiveState", "--", *units, seconds=_ASK_SECONDS
    )
    if shown.code != 0:
        raise CommandError(f"systemctl show: {shown.words}", late=False)
    states = [line.partition("=")[2] for line in shown.out.splitlines() if line.startswith("ActiveState=")]
    if len(states) != len(units):
        raise CommandError(f"systemctl show answers for {len(states)} of {len(units)} units", late=False)
    return dict(zip(units, states, strict=True))


def _said(verb: str, units: list[str]) -> str:
    return f"{verb} {', '.join(units)}" if units else f"nothing had to be {verb}"
