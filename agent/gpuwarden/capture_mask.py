"""Makes captures fit to be shown to others: names of boards become other names, the same ones throughout one file."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Any

_UUID = re.compile(r"\b(GPU|MIG)-[0-9A-Fa-f][0-9A-Fa-f-]{7,}\b")
_FIELDS = ("uuid", "serial")
_SHORTEST_IN_TEXT = 6  # a serial shorter than this may be any number in a line of text


class Masker:
    """Masks UUIDs and serials with a secret of its own: equal names stay equal, and nobody can tell which they were.

    The form stays (`GPU-` and hexadecimal groups, digits of a serial), so whatever matches by it still does. A
    `PCI-<bdf>` name is an address, not a board's name, and stays.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(16)
        self._serials: dict[str, str] = {}

    def host(self, name: str) -> str:
        """Return what stands for a host name."""
        return f"host-{self._digest(name)[:8]}"

    def masked(self, value: Any, field: str = "") -> Any:
        """Return a decoded JSON value with every name in it masked, in fields and in free text."""
        match value:
            case dict():
                return {self._text(key): self.masked(each, key) for key, each in value.items()}
            case list():
                return [self.masked(each) for each in value]
            case str() if field in _FIELDS:
                return self._name(value, field)
            case str():
                return self._text(value)
        return value

    def _name(self, value: str, field: str) -> str:
        if value == "" or value.startswith("PCI-"):
            return value
        return self._serial(value) if field == "serial" else self._uuid(value)

    def _uuid(self, value: str) -> str:
        digest = self._digest(value)
        kind = value.partition("-")[0] if value.startswith(("GPU-", "MIG-")) else "GPU"
        return f"{kind}-{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"

    def _serial(self, value: str) -> str:
        masked = str(int(self._digest(value), 16))[: max(len(value), 10)]
        if len(value) >= _SHORTEST_IN_TEXT:
            self._serials[value] = masked
        return masked

    def _text(self, text: str) -> str:
        for serial, masked in self._serials.items():
            if serial in text:
                text = re.sub(rf"(?<![0-9A-Za-z]){re.escape(serial)}(?![0-9A-Za-z])", masked, text)
        return _UUID.sub(lambda found: self._uuid(found[0]), text) if "-" in text else text

    def _digest(self, value: str) -> str:
        return hashlib.blake2s(value.encode(), key=self._secret).hexdigest()
