"""`reboot`: through logind, with what inhibits a shutdown honoured. Rates and uptime were judged at the door."""

from __future__ import annotations

import msgspec

from gpuwarden.actuators.backend import Answer, done, failed, refused, unknown
from gpuwarden.actuators.commands import CommandError, Ended, run
from gpuwarden.actuators.site import Site
from gpuwarden.model.case import Intent

_ASK_SECONDS = 10.0
_REBOOT_SECONDS = 60.0
_LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
_NO_LOGIND = ("not provided by any .service", "was not provided", "Unit not found", "Could not activate remote peer")
_NO_BUS = ("No such file or directory", "Connection refused")


class _Inhibitors(msgspec.Struct, frozen=True):
    """busctl's JSON of `ListInhibitors`: what, who, why, mode, uid, pid of each."""

    data: tuple[tuple[tuple[str, str, str, str, int, int], ...]]


def reboot(site: Site, _: Intent) -> Answer:
    """Have the host reboot. DONE means that it was told to, not that it did.

    Root would override a block inhibitor without asking, so they are asked for here; delays logind grants itself.
    Source: org.freedesktop.login1(5).
    """
    listed = run(site, "busctl", "--json=short", "call", *_LOGIND, "ListInhibitors", seconds=_ASK_SECONDS)
    if listed.code != 0 and not _without_logind(listed):
        return failed(f"what inhibits a reboot cannot be told: {listed.words}")
    if listed.code == 0 and (blocked := _blocking(listed.out)):
        return refused(f"a reboot is inhibited by {blocked}")
    if listed.code == 0:
        told = run(site, "busctl", "call", *_LOGIND, "Reboot", "b", "false", seconds=_REBOOT_SECONDS)
    else:
        told = run(site, "systemctl", "reboot", "--no-ask-password", seconds=_REBOOT_SECONDS)
    if told.code != 0:
        return unknown(f"the reboot was answered with: {told.words}")
    return done("told to reboot")


def _blocking(shown: str) -> str:
    """Return who blocks a shutdown and why, "" for nobody. Raises: CommandError where the answer is none."""
    try:
        (found,) = msgspec.json.decode(shown.encode(), type=_Inhibitors).data
    except msgspec.DecodeError as error:
        raise CommandError(f"logind's answer cannot be read: {error}", late=False) from None
    blocks = [each for each in found if "shutdown" in each[0].split(":") and each[3].startswith("block")]
    return ", ".join(f"{who} ({why})" for _, who, why, *_ in blocks)


def _without_logind(listed: Ended) -> bool:
    return any(words in listed.err for words in (*_NO_LOGIND, *_NO_BUS))
