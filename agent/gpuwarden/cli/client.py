"""The way to the running daemon: its HTTP API over the status socket, every request with a deadline."""

from __future__ import annotations

import http.client
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec

from gpuwarden.errors import DaemonUnreachableError, GpuwardenError, InputError

if TYPE_CHECKING:
    from gpuwarden.config import Config

SOCKET_NAME = "status.sock"
SYSTEM_RUNTIME_DIR = Path("/run/gpuwarden")
_LARGEST_ANSWER_BYTES = 64 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket; `until` (monotonic seconds) bounds everything that is done with it."""

    def __init__(self, path: Path, until: float) -> None:
        super().__init__("localhost")
        self._path = path
        self._until = until

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.hurry()
        self.sock.connect(str(self._path))

    def hurry(self) -> None:
        """Give the next read or write only the time that is left. Raises: TimeoutError when there is none."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)


class Daemon:
    """The daemon behind the first of `sockets` that somebody answers on."""

    def __init__(self, sockets: tuple[Path, ...], *, deadline_seconds: float = 5.0) -> None:
        self._sockets = sockets
        self._deadline_seconds = deadline_seconds

    def get(self, path: str, **query: str | float | None) -> Any:
        """Return the JSON that GET /api/v1/<path> answers.

        Raises: DaemonUnreachableError where nobody answers in time, InputError where the request is refused.
        """
        given = {name: value for name, value in query.items() if value is not None}
        return self._ask("GET", f"/api/v1/{path}" + (f"?{urlencode(given)}" if given else ""), None, None)

    def post(self, verb: str, body: dict[str, Any], *, deadline_seconds: float | None = None) -> Any:
        """Ask the daemon to do something and return its JSON answer. Raises: as `get`."""
        return self._ask("POST", f"/api/v1/{verb}", msgspec.json.encode(body), deadline_seconds)

    def _ask(self, method: str, target: str, body: bytes | None, deadline_seconds: float | None) -> Any:
        until = time.monotonic() + (deadline_seconds or self._deadline_seconds)
        refused: list[str] = []
        for path in self._sockets:
            try:
                status, raw = _exchange(path, method, target, body, until)
            except (OSError, http.client.HTTPException) as error:
                refused.append(f"{path}: {_reason(error)}")
                continue
            return _answer(status, raw, target)
        raise DaemonUnreachableError(
            "no daemon answers on its status socket\n"
            + "\n".join(refused)
            + "\nStart one with `systemctl start gpuwarden` or `gpuwarden run`; if it runs with a configuration of its"
            " own, name that with --config."
        )


def reach(config_path: Path | None, *, deadline_seconds: float = 5.0) -> tuple[Config, Daemon]:
    """Return the configuration and the daemon that runs with it; without any configuration, the system's daemon too.

    Raises: ConfigError. Nobody is asked yet.
    """
    from gpuwarden.config import DEFAULT_PATH, load

    config = load(config_path, os.environ)
    own, system = Path(config.runtime_dir) / SOCKET_NAME, SYSTEM_RUNTIME_DIR / SOCKET_NAME
    chosen = config_path is not None or "GPUWARDEN_CONFIG" in os.environ or DEFAULT_PATH.exists()
    sockets = (own,) if chosen or own == system else (own, system)
    return config, Daemon(sockets, deadline_seconds=deadline_seconds)


def _exchange(path: Path, method: str, target: str, body: bytes | None, until: float) -> tuple[int, bytes]:
    """Return status and body of one request. Raises: OSError, HTTPException."""
    connection = _UnixConnection(path, until)
    try:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, target, body=body, headers={**headers, "Connection": "close"})
        connection.hurry()
        sock = connection.sock
        response = connection.getresponse()
        parts: list[bytes] = []
        size = 0
        while part := response.read1(_CHUNK_BYTES):
            parts.append(part)
            size += len(part)
            if size > _LARGEST_ANSWER_BYTES:
                raise http.client.HTTPException("its answer has no end")
            if (left := until - time.monotonic()) <= 0:
                raise TimeoutError
            sock.settimeout(left)
        return response.status, b"".join(parts)
    finally:
        connection.close()


def _answer(status: int, raw: bytes, target: str) -> Any:
    if status == http.client.OK:
        try:
            return msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise GpuwardenError(f"the daemon's answer to {target} is no JSON: {error}") from error
    said = _said(raw)
    if status == http.client.NOT_FOUND:
        raise InputError(f"the running daemon does not know this ({target}): {said}; is it of another version?")
    if status == http.client.SERVICE_UNAVAILABLE:
        raise DaemonUnreachableError(f"the daemon cannot answer now: {said}\nTry again in a moment.")
    if status < http.client.INTERNAL_SERVER_ERROR:
        raise InputError(said)
    raise GpuwardenError(f"the daemon failed to answer {target}: {said}; its log says why")


def _said(raw: bytes) -> str:
    """Return the words of an error answer: the `error` of a JSON object, else the text itself."""
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return raw.decode("utf-8", "replace").strip()[:2000] or "no reason given"
    return str(found.get("error", found)) if isinstance(found, dict) else str(found)


def _reason(error: OSError | http.client.HTTPException) -> str:
    match error:
        case TimeoutError():
            return "no answer in time"
        case FileNotFoundError():
            return "there is no such socket"
        case ConnectionRefusedError():
            return "nobody listens there any more"
        case PermissionError():
            return "this user may not open it; use sudo, or join the group that owns it"
        case OSError():
            return error.strerror or str(error)
    return f"it does not speak HTTP ({error or type(error).__name__})"
