"""Basic authentication against bcrypt hashes: slow by design, so off the loop and remembered."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections import OrderedDict
from typing import Any

from gpuwarden.sidethread import SideThread

_QUEUED = 16
_WAIT_SECONDS = 10.0
_REMEMBERED = 64
_BCRYPT_BYTES = 72  # bcrypt looks at no more of a password
_MAX_HEADER = 4096


def parse_basic(header: str) -> tuple[str, str] | None:
    """Return (user, password) of an Authorization header, or None where it is not a well-formed Basic one."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic" or len(header) > _MAX_HEADER:
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (user, password) if colon else None


class Credentials:
    """Answers whether a user's password is right, at most one bcrypt at a time.

    A pair that was right once is remembered by a keyed digest, so that a scraper costs one bcrypt and not one per
    scrape; a wrong one never is. An unknown user costs what a wrong password costs.
    """

    def __init__(self, users: dict[str, str]) -> None:
        import bcrypt  # only where somebody has to log in

        self._check: Any = bcrypt.checkpw
        self._users = users
        cost = max(int(hashed.split("$")[2]) for hashed in users.values())
        self._decoy = bcrypt.hashpw(secrets.token_bytes(16), bcrypt.gensalt(cost)).decode()
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._thread = SideThread("bcrypt", _QUEUED)

    async def right(self, user: str, password: str) -> bool:
        """Return whether the password is this user's.

        Raises: BusyError when too many log in at once, TimeoutError when it takes too long.
        """
        hashed = self._users.get(user, self._decoy)
        digest = self._digest(hashed, password)
        if digest in self._right:
            self._right.move_to_end(digest)
            return True
        secret = password.encode()[:_BCRYPT_BYTES]
        found: bool = await self._thread.call(lambda: self._verify(secret, hashed), _WAIT_SECONDS)
        if not found or user not in self._users:
            return False
        self._right[digest] = None
        while len(self._right) > _REMEMBERED:
            self._right.popitem(last=False)
        return True

    def close(self) -> None:
        """Let the thread end."""
        self._thread.close()

    def _verify(self, secret: bytes, hashed: str) -> bool:
        try:
            return bool(self._check(secret, hashed.encode()))
        except ValueError:  # a password with a NUL byte: nobody's
            return False

    def _digest(self, hashed: str, password: str) -> bytes:
        return hmac.digest(self._key, f"{hashed}\0{password}".encode(), hashlib.sha256)
