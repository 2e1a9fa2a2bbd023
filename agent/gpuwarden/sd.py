"""The service manager's side channel: sd_notify messages and the watchdog period. Nothing happens without systemd."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends sd_notify datagrams to `$NOTIFY_SOCKET`; silently does nothing where there is none."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = self._period(environ)
        """How often systemd wants to hear from us, in seconds; None when it does not watch this process."""

    @staticmethod
    def _period(environ: Mapping[str, str]) -> float | None:
        if environ.get("WATCHDOG_PID") not in (None, str(os.getpid())):
            return None
        try:
            return int(environ["WATCHDOG_USEC"]) / 1e6
        except (KeyError, ValueError):
            return None

    def send(self, **fields: str) -> None:
        """Send one message, e.g. `send(READY="1", STATUS="8 GPUs")`; nobody listening is no error."""
        if not self._address:
            return
        message = "\n".join(f"{key}={value}" for key, value in fields.items()).encode()
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as out:
            out.sendto(message, self._address)


def listening_sockets(environ: Mapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd listens on for this process; none where it was started otherwise.

    Source: sd_listen_fds(3).
    """
    if environ.get("LISTEN_PID") != str(os.getpid()) or not environ.get("LISTEN_FDS", "").isdecimal():
        return []
    found = [socket.socket(fileno=number) for number in range(3, 3 + int(environ["LISTEN_FDS"]))]
    for each in found:
        os.set_inheritable(each.fileno(), False)
    return found
