"""`--web.config.file`: TLS and basic authentication, in the file format of Prometheus' exporter toolkit.

Every problem of the file is reported at once. Keys that the format has and this server does not need are accepted and
named in `ignored`. ruamel.yaml is imported only when there is such a file.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from gpuwarden.errors import ConfigError

_MAX_BYTES = 1024 * 1024
_HASH = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_COSTS = range(4, 18)  # a cost of 18 takes 20 s and more per login: a mistake, or an attack on ourselves

ClientAuth = Literal["NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"]
_CLIENT_AUTH = ("NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert")
_UNVERIFIED = ("RequestClientCert", "RequireAnyClientCert")
_VERSIONS = ("TLS10", "TLS11", "TLS12", "TLS13")
_IGNORED_TLS = ("prefer_server_cipher_suites", "curve_preferences")
_HEADERS = (
    "Content-Security-Policy",
    "Permissions-Policy",
    "Referrer-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
)


class TlsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`tls_server_config`. Paths are absolute; `cert`, `key` and `client_ca` hold PEM text given in the file itself."""

    cert_file: str = ""
    key_file: str = ""
    cert: str = ""
    key: str = ""
    client_auth: ClientAuth = "NoClientCert"
    client_ca_file: str = ""
    client_ca: str = ""
    client_allowed_sans: tuple[str, ...] = ()
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    cipher_suites: tuple[str, ...] = ()


class WebConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the file asks for. `users`: name -> bcrypt hash; empty: nobody has to log in."""

    tls: TlsConfig | None = None
    users: dict[str, str] = {}
    headers: dict[str, str] = {}
    ignored: tuple[str, ...] = ()


def load(path: Path) -> WebConfig:
    """Read and check the file. Blocks.

    Raises: ConfigError with every problem found.
    """
    found = _read(path)
    if found is None:
        return WebConfig()
    if not isinstance(found, dict):
        raise ConfigError(((str(path), "is not a mapping of sections"),))
    return _Reader(path).read(found)


def _read(path: Path) -> Any:
    """Return the parsed YAML."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(((str(path), f"cannot be read: {error.strerror}"),)) from error
    if mode & stat.S_IWOTH:
        raise ConfigError(((str(path), f"is writable by everybody (mode {mode:04o})"),))
    if len(text) > _MAX_BYTES:
        raise ConfigError(((str(path), f"is longer than {_MAX_BYTES} bytes"),))
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError
    except ImportError as error:
        raise ConfigError(((str(path), "needs the extra `web`: pip install 'gpuwarden[web]'"),)) from error
    try:
        return YAML(typ="safe", pure=True).load(text.decode("utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        words = " ".join(str(error).split())
        raise ConfigError(((str(path), f"is not YAML: {words}"),)) from error


class _Reader:
    """Turns the parsed file into a WebConfig, collecting problems on the way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._problems: list[tuple[str, str]] = []
        self._ignored: list[str] = []

    def read(self, found: dict[Any, Any]) -> WebConfig:
        known = {"tls_server_config", "http_server_config", "basic_auth_users", "rate_limit"}
        self._unknown("", found, known)
        if found.get("rate_limit"):
            self._ignored.append("rate_limit")
        tls = self._tls(self._section(found, "tls_server_config"))
        users = self._users(self._section(found, "basic_auth_users"))
        headers = self._headers(self._section(found, "http_server_config"))
        if self._problems:
            raise ConfigError(tuple(self._problems))
        return WebConfig(tls=tls, users=users, headers=headers, ignored=tuple(self._ignored))

    def _problem(self, key: str, text: str) -> None:
        self._problems.append((f"{self._path}: {key}" if key else str(self._path), text))

    def _unknown(self, prefix: str, section: dict[Any, Any], known: set[str]) -> None:
        for key in section:
            if key not in known:
                self._problem(f"{prefix}{key}", "unknown key")

    def _section(self, found: dict[Any, Any], name: str) -> dict[Any, Any]:
        section = found.get(name)
        if section is None:
            return {}
        if not isinstance(section, dict):
            self._problem(name, "is not a mapping")
            return {}
        return section

    def _typed(self, section: dict[Any, Any], prefix: str, key: str, kind: type, empty: Any) -> Any:
        value = section.get(key)
        if value is None:
            return empty
        if kind is tuple and isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        if isinstance(value, kind):
            return value
        self._problem(f"{prefix}{key}", "is not a list of texts" if kind is tuple else f"is not a {_WORDS[kind]}")
        return empty

    def _tls(self, section: dict[Any, Any]) -> TlsConfig | None:
        if not section:
            return None
        prefix = "tls_server_config."
        fields = {name: tuple if name in _LISTS else str for name in TlsConfig.__struct_fields__}
        fields["client_auth_type"] = fields.pop("client_auth")
        self._unknown(prefix, section, {*fields, *_IGNORED_TLS})
        self._ignored += [f"{prefix}{key}" for key in _IGNORED_TLS if key in section]
        values = {
            name: self._typed(section, prefix, name, kind, () if kind is tuple else "") for name, kind in fields.items()
        }
        values["client_auth"] = self._client_auth(values.pop("client_auth_type") or "NoClientCert", values, prefix)
        for name in ("cert", "key"):
            given = [each for each in (name, f"{name}_file") if values[each]]
            if len(given) != 1:
                self._problem(f"{prefix}{name}_file", f"give either {name} or {name}_file")
        for name in ("cert_file", "key_file", "client_ca_file"):
            if values[name]:
                values[name] = str(self._path.absolute().parent / values[name])
        for name, default in (("min_version", "TLS12"), ("max_version", "TLS13")):
            values[name] = self._one_of(values[name] or default, _VERSIONS, prefix + name)
        return None if self._problems else TlsConfig(**values)

    def _client_auth(self, auth: str, values: dict[str, Any], prefix: str) -> str:
        key = f"{prefix}client_auth_type"
        has_ca = bool(values["client_ca"] or values["client_ca_file"])
        if auth in _UNVERIFIED:
            self._problem(key, f"{auth} would accept any certificate unverified: use RequireAndVerifyClientCert")
        elif self._one_of(auth, _CLIENT_AUTH, key) != "NoClientCert" and not has_ca:
            self._problem(f"{prefix}client_ca_file", f"is needed by client_auth_type {auth}")
        elif auth == "NoClientCert" and has_ca:
            self._problem(key, "a client CA is given but client certificates are not asked for")
        return auth

    def _one_of(self, value: str, allowed: tuple[str, ...], key: str) -> str:
        if value not in allowed:
            self._problem(key, f"{value!r} is none of {', '.join(allowed)}")
        return value

    def _users(self, section: dict[Any, Any]) -> dict[str, str]:
        for name, hashed in section.items():
            key = f"basic_auth_users.{name}"
            matched = _HASH.fullmatch(hashed) if isinstance(hashed, str) else None
            if not isinstance(name, str) or ":" in name or not name:
                self._problem(key, "a user name is a text without a colon")
            elif matched is None:
                self._problem(key, "is not a bcrypt hash")  # what it is instead may be a password: never shown
            elif int(matched.group(1)) not in _COSTS:
                self._problem(key, f"has a bcrypt cost outside {_COSTS[0]} to {_COSTS[-1]}")
        return dict(section)

    def _headers(self, section: dict[Any, Any]) -> dict[str, str]:
        prefix = "http_server_config."
        self._unknown(prefix, section, {"http2", "headers"})
        if "http2" in section:
            self._ignored.append(f"{prefix}http2")
        headers = self._section(section, "headers")
        kept: dict[str, str] = {}
        for name, value in headers.items():
            if name not in _HEADERS:
                self._problem(f"{prefix}headers.{name}", f"is none of {', '.join(_HEADERS)}")
            elif not isinstance(value, str) or not value.isprintable():
                self._problem(f"{prefix}headers.{name}", "is not a line of text")
            elif value:
                kept[name] = value
        return kept


_LISTS = frozenset({"client_allowed_sans", "cipher_suites"})
_WORDS: dict[Callable[..., Any], str] = {str: "text", dict: "mapping"}
