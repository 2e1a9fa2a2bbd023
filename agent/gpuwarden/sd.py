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
