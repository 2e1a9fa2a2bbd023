"""The web configuration in force: who may connect and how; replaced as a whole, also while the server runs."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

import structlog

from gpuwarden.errors import ConfigError
from gpuwarden.exposition import tls, webconfig
from gpuwarden.exposition.credentials import Credentials
from gpuwarden.sidethread import BusyError, SideThread

_CERTIFICATE_SECONDS = 30.0
_READ_SECONDS = 5.0


class Security:
    """TLS context and users of one listener. `path` is the web configuration's, "" for none."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._context: ssl.SSLContext | None = None
        self._stamp: tuple[float, ...] = ()
        self._thread = SideThread("web-config", 4)
        self._log = structlog.get_logger()
        self.config = webconfig.WebConfig()
        self.credentials: Credentials | None = None

    def tls(self) -> ssl.SSLContext | None:
        """Return the context for the next handshake."""
        return self._context

    def san_allowed(self, names: tuple[str, ...]) -> bool:
        """Return whether a client with these names may connect."""
        allowed = self.config.tls.client_allowed_sans if self.config.tls else ()
        return not allowed or not set(allowed).isdisjoint(names)

    def load(self) -> None:
        """Read everything, blocking. Raises: ConfigError."""
        if self._path:
            self._apply(*self._read())

    async def reload(self) -> None:
        """Read everything on a thread of its own. Raises: ConfigError; nothing changed then."""
        if not self._path:
            return
        try:
            read = await self._thread.call(self._read, _READ_SECONDS)
        except (TimeoutError, BusyError) as error:
            raise ConfigError(((self._path, "cannot be read in time"),)) from error
        self._apply(*read)

    async def watch(self) -> None:
        """Take over certificates that were renewed on disk."""
        while True:
            await asyncio.sleep(_CERTIFICATE_SECONDS)
            if self.config.tls is None:
                continue
            with contextlib.suppress(TimeoutError, BusyError):
                if await self._thread.call(lambda: self._stamps(self.config.tls), _READ_SECONDS) == self._stamp:
                    continue
                try:
                    await self.reload()
                    self._log.info("certificate.reloaded", file=self.config.tls.cert_file)
                except ConfigError as error:
                    self._log.warning("certificate.refused", problems=str(error))

    def close(self) -> None:
        """Let the threads end."""
        self._thread.close()
        if self.credentials is not None:
            self.credentials.close()

    def _read(self) -> tuple[webconfig.WebConfig, ssl.SSLContext | None, Credentials | None, tuple[float, ...]]:
        config = webconfig.load(Path(self._path))
        stamps = self._stamps(config.tls)
        context = tls.context(config.tls) if config.tls else None
        same = self.credentials is not None and config.users == self.config.users
        credentials = self.credentials if same else Credentials(config.users) if config.users else None
        return config, context, credentials, stamps

    def _apply(
        self,
        config: webconfig.WebConfig,
        context: ssl.SSLContext | None,
        credentials: Credentials | None,
        stamps: tuple[float, ...],
    ) -> None:
        if config.ignored and config.ignored != self.config.ignored:
            self._log.warning("web_config.keys_ignored", keys=list(config.ignored))
        if self.credentials is not None and self.credentials is not credentials:
            self.credentials.close()
        self.config, self._context, self.credentials, self._stamp = config, context, credentials, stamps

    @staticmethod
    def _stamps(config: webconfig.TlsConfig | None) -> tuple[float, ...]:
        """Return when each file was last changed; 0 for one that is not there just now."""
        stamps = []
        for path in tls.files_of(config) if config else ():
            try:
                stamps.append(path.stat().st_mtime)
            except OSError:
                stamps.append(0.0)
        return tuple(stamps)
