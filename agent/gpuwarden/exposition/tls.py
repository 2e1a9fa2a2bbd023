"""The server's TLS context from a web configuration."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

from gpuwarden.errors import ConfigError
from gpuwarden.exposition.webconfig import TlsConfig

_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_VERIFY = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_CIPHERS = {  # the web config names them as Go does; OpenSSL's names by RFC 5246, 5289 and 7905
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
}
_TLS13_CIPHERS = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})


def files_of(config: TlsConfig) -> tuple[Path, ...]:
    """Return the files whose change means a new context."""
    return tuple(Path(name) for name in (config.cert_file, config.key_file, config.client_ca_file) if name)


def context(config: TlsConfig) -> ssl.SSLContext:
    """Return a context for the server. Blocks: it reads certificates.

    Raises: ConfigError where a certificate, key or cipher cannot be used.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    made.set_alpn_protocols(["http/1.1"])
    step = "min_version"
    try:
        made.minimum_version = _VERSIONS[config.min_version]
        made.maximum_version = _VERSIONS[config.max_version]
        if config.min_version > config.max_version:
            raise ValueError(f"is above max_version {config.max_version}")
        step = "cipher_suites"
        _choose_ciphers(made, config)
        step = "cert_file"
        _load_certificate(made, config)
        step = "client_ca_file"
        if config.client_ca_file or config.client_ca:
            made.load_verify_locations(config.client_ca_file or None, cadata=config.client_ca or None)
    except (OSError, ssl.SSLError, ValueError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise ConfigError(((f"tls_server_config.{step}", f"cannot be used: {words}"),)) from error
    made.verify_mode = _VERIFY[config.client_auth]
    return made


def _choose_ciphers(made: ssl.SSLContext, config: TlsConfig) -> None:
    """Set the suites below TLS 1.3; those of TLS 1.3 are all good and not a choice."""
    unknown = [name for name in config.cipher_suites if name not in _CIPHERS and name not in _TLS13_CIPHERS]
    if unknown:
        raise ValueError(f"unknown suite {', '.join(unknown)}")
    chosen = [_CIPHERS[name] for name in config.cipher_suites if name in _CIPHERS]
    if chosen:
        made.set_ciphers(":".join(chosen))


def _load_certificate(made: ssl.SSLContext, config: TlsConfig) -> None:
    """Load certificate and key; OpenSSL takes files only, so what is given inline passes through short-lived ones."""
    with tempfile.TemporaryDirectory(prefix="gpuwarden-") as directory:
        certificate = _file(config.cert_file, config.cert, Path(directory, "cert"))
        made.load_cert_chain(certificate, _file(config.key_file, config.key, Path(directory, "key")), _no_password)


def _file(name: str, inline: str, spare: Path) -> Path:
    """Return the named file, or `spare` with the inline text in it, readable by us alone."""
    if name:
        return Path(name)
    spare.touch(mode=0o600)
    spare.write_text(inline, encoding="utf-8")
    return spare


def _no_password() -> str:
    raise ValueError("the key is encrypted; this server has nobody to ask for its password")
