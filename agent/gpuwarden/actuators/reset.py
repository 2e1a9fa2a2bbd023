"""`reset`: one GPU, by nvidia-smi, with everything put aside that stands in its way and put back afterwards.

    refusals -> holders named -> units paused -> persistence off -> holders again -> reset -> persistence, units back

Where the scheduler has pods that hold every GPU, they are sent away before the units and come back after them.

Precondition on the daemon's side: its NVML worker has been replaced by one that does not open this GPU. While it
still holds it, the reset is refused as `in use by gpuwarden's own worker`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from gpuwarden.actuators import command
from gpuwarden.actuators.backend import Answer, Pauses, done, failed, refused, unknown
from gpuwarden.actuators.commands import CommandError, Ended, run
from gpuwarden.actuators.eyes import folder_of, text_of
from gpuwarden.actuators.holders import Holder, Role, holdings
from gpuwarden.actuators.notes import Notes
from gpuwarden.actuators.platform import judged
from gpuwarden.actuators.site import Site
from gpuwarden.actuators.units import states_of
from gpuwarden.model.case import Intent, Outcome

RESTORE_MIG = "restore-mig"
"""The executable of actions.d that makes the MIG instances again after a reset; without it MIG is never reset."""

IN_USE_BY_US = "in use by gpuwarden's own worker"
_ASK_SECONDS = 20.0
_CHANGE_SECONDS = 45.0
_PAUSE_SECONDS, _RESUME_SECONDS = 60.0, 15.0
_LEFT_SECONDS = 60.0  # of the deadline, for what comes after the reset
_QUERY = ("display_active", "mig.mode.current", "persistence_mode", "compute_cap")

FAILURES: tuple[tuple[str, Outcome], ...] = (  # words of nvidia-smi, in the order they are looked for
    ("in use by another client", Outcome.FAILED),
    ("currently in use by one or more", Outcome.FAILED),
    ("insufficient permissions", Outcome.FAILED),
    ("primary gpu", Outcome.REFUSED),
    ("not supported", Outcome.REFUSED),
    ("no devices were found", Outcome.FAILED),
    ("unable to determine the device handle", Outcome.FAILED),
)
"""What an answer means. One that is not here may have come after the reset began: EFFECT_UNKNOWN."""


class Card(NamedTuple):
    """What nvidia-smi says of a GPU before it is reset."""

    display: bool
    mig: bool
    persistence: bool
    capability: float


def reset(site: Site, intent: Intent, pauses: Pauses | None = None) -> Answer:
    """Reset one GPU. Whatever was put aside is back when this returns, or said not to be."""
    began = time.monotonic()
    if why := _not_here(site, intent.bdf):
        return refused(why)
    try:
        card = _card(site, intent.bdf)
        why = _unfit(site, intent.bdf, card)
        if not why and pauses is None:  # with pods to be sent away, who holds it is told once they are gone
            why = _held(site, intent.bdf, (Role.PERSISTENCE, Role.PAUSED_UNIT))
    except CommandError as error:  # late or not: nothing was changed yet
        return failed(str(error))
    if why:
        return refused(why)
    troubles: list[str] = []
    with _sent_away(pauses, intent, troubles), _put_aside(site, intent.bdf, card, troubles):
        if why := _held(site, intent.bdf, ()):
            answer = failed(why)
        else:
            left = intent.deadline_seconds - (time.monotonic() - began)
            seconds = max(left - _LEFT_SECONDS, left / 2)
            answer = _reset(site, intent, seconds)
    if answer.outcome is Outcome.DONE and card.mig:
        made = command.run_named(site, msgspec.structs.replace(intent, command=RESTORE_MIG, deadline_seconds=30.0))
        troubles += [] if made.outcome is Outcome.DONE else [f"{RESTORE_MIG}: {made.detail}"]
    return Answer(answer.outcome, "; ".join((answer.detail, *troubles))) if troubles else answer


# ---- refusals, before anything is touched


def _not_here(site: Site, bdf: str) -> str:
    """Return why a device is none that the NVIDIA driver could reset, "" where it is."""
    folder = folder_of(site.place, bdf)
    try:
        with (folder / "config").open("rb", buffering=0) as config:
            if config.read(4) == b"\xff\xff\xff\xff":
                return "the GPU does not answer on the bus: a reset cannot reach it"
    except OSError:
        return "the GPU is not on the bus"
    try:
        driver = (folder / "driver").readlink().name
    except OSError:
        driver = ""
    if driver != "nvidia":
        return f"bound to {driver or 'no driver'}"
    virtual = text_of(folder / "sriov_numvfs") not in ("", "0")
    if virtual or any((folder / "mdev_supported_types").glob("*/devices/*")):
        return "it carries vGPUs"
    if text_of(folder / "boot_vga") == "1":
        return "it is the host's primary display adapter"
    if any(text_of(status) == "connected" for status in folder.glob("drm/card*/card*-*/status")):
        return "a display is attached to it"
    return ""


def _card(site: Site, bdf: str) -> Card:
    """Ask nvidia-smi about a GPU. What it does not support is answered in brackets. Raises: CommandError."""
    arguments = (f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits", "-i", bdf)
    ended = run(site, "nvidia-smi", *arguments, seconds=_ASK_SECONDS)
    fields = [field.strip() for field in ended.out.strip().split(",")]
    if ended.code != 0 or len(fields) != len(_QUERY):
        raise CommandError(f"nvidia-smi cannot say how the GPU is set: {ended.words}", late=False)
    try:
        capability = float(fields[3])
    except ValueError:
        raise CommandError(f"nvidia-smi names no compute capability but {fields[3]!r}", late=False) from None
    return Card(fields[0] == "Enabled", fields[1] == "Enabled", fields[2] == "Enabled", capability)


def _unfit(site: Site, bdf: str, card: Card) -> str:
    if card.display:
        return "a display is active on it"
    if card.mig and not command.exists(site, RESTORE_MIG):
        return f"MIG is enabled, and there is no {RESTORE_MIG} in actions.d to make its instances again"
    if card.mig and (why := command.distrust(site, RESTORE_MIG)):
        return why
    return judged(site, bdf, card.capability)


def _held(site: Site, bdf: str, allowed: tuple[Role, ...]) -> str:
    """Return who holds the GPU that may not, "" for nobody. Our own worker is named as such."""
    held = holdings(site)
    if not held.complete:
        return "not every process could be looked at"
    holders = [holder for holder in held.by_bdf.get(bdf, []) if holder.role not in allowed]
    ours = [holder for holder in holders if holder.role is Role.OUR_WORKER]
    others = [holder for holder in holders if holder.role is not Role.OUR_WORKER]
    if others:
        return f"in use by {_names(others)}"
    return f"{IN_USE_BY_US} ({_names(ours)})" if ours else ""


def _names(holders: list[Holder]) -> str:
    return ", ".join(str(holder) for holder in holders[:8]) + (" and more" if len(holders) > 8 else "")


# ---- what is put aside, and comes back


@contextmanager
def _sent_away(pauses: Pauses | None, intent: Intent, troubles: list[str]) -> Iterator[None]:
    """Send the scheduler's holders away, and let them back. Should we die meanwhile, the release lets them back."""
    if pauses is None:
        yield
        return
    seconds = min(_PAUSE_SECONDS, intent.deadline_seconds / 3)
    try:
        gone = pauses.pause_holders(msgspec.structs.replace(intent, deadline_seconds=seconds))
        if gone.outcome is not Outcome.DONE:
            raise CommandError(f"pods that hold the GPU were not sent away: {gone.detail}", late=False)
        yield
    finally:
        back = pauses.resume_holders(msgspec.structs.replace(intent, deadline_seconds=_RESUME_SECONDS))
        troubles += [] if back.outcome is Outcome.DONE else [f"paused pods are not back: {back.detail}"]


@contextmanager
def _put_aside(site: Site, bdf: str, card: Card, troubles: list[str]) -> Iterator[None]:
    """Pause the configured units and turn persistence off; put both back, and add to `troubles` what did not come.

    What is put aside is noted first: a crash in between leaves a note, which `put_back` obeys at the next start.
    """
    units = [unit for unit, state in states_of(site, site.config.actuator.pause_units).items() if state == "active"]
    notes = _notes(site)
    aside = dict.fromkeys(units, "unit") | ({bdf: "persistence"} if card.persistence else {})
    notes.write({**notes.read(), **aside})
    try:
        if units:
            _must(run(site, "systemctl", "stop", "--no-ask-password", "--", *units, seconds=_CHANGE_SECONDS))
        if card.persistence:
            _must(run(site, "nvidia-smi", "-i", bdf, "-pm", "0", seconds=_ASK_SECONDS))
        yield
    finally:
        troubles += put_back(site)


def put_back(site: Site) -> list[str]:
    """Put back what is noted as put aside, and return what did not come back; its note stays then."""
    notes = _notes(site)
    left: dict[str, str] = {}
    troubles: list[str] = []
    if not notes.read():
        return troubles
    for name, what in notes.read().items():
        try:
            if what == "persistence":
                _must(run(site, "nvidia-smi", "-i", name, "-pm", "1", seconds=_ASK_SECONDS))
            else:
                _must(run(site, "systemctl", "start", "--no-ask-password", "--", name, seconds=_CHANGE_SECONDS))
        except CommandError as error:
            left[name] = what
            troubles.append(f"{what} of {name} is not back: {error}" if what == "persistence" else f"{name}: {error}")
    notes.write(left)
    return troubles


def _notes(site: Site) -> Notes:
    return Notes(Path(site.place.state_dir), "reset")


def _must(ended: Ended) -> None:
    if ended.code != 0:
        raise CommandError(ended.words, late=False)


# ---- the reset


def _reset(site: Site, intent: Intent, seconds: float) -> Answer:
    try:
        ended = run(site, "nvidia-smi", "--gpu-reset", "-i", intent.uuid or intent.bdf, seconds=seconds)
    except CommandError as error:
        return unknown(str(error)) if error.late else failed(str(error))
    if ended.code == 0:
        return done("reset")
    said = f"{ended.out}\n{ended.err}".lower()
    outcome = next((found for words, found in FAILURES if words in said), Outcome.EFFECT_UNKNOWN)
    named = _held(site, intent.bdf, ()) if outcome is Outcome.FAILED else ""
    words = ended.words if ended.err.strip() or ended.out.strip() else f"exit status {ended.code}"
    return Answer(outcome, f"{words} ({named})" if named else words)
