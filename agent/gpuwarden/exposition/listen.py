"""Listening sockets: TCP addresses as Prometheus exporters write them, and the status socket."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from gpuwarden.errors import ConfigError, InputError

BACKLOG = 128
_SOCKET_MODE = 0o660
_MAX_UNIX_PATH_BYTES = 107  # sun_path less its closing zero; source: unix(7)
_PROBE_SECONDS = 1.0
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


def parse_address(text: str) -> tuple[str, int]:
    """Return (host, port) of `:9878`, `127.0.0.1:0`, `[::1]:9878` or `name:9878`; host "" means all interfaces.

    Raises: ConfigError for anything else.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host or "[" in host or "]" in host:
        colon = ""  # a bare IPv6 address: where it ends and the port begins is anybody's guess
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError((("web.listen", f"{text!r} is not host:port, :port or [ipv6]:port"),))
    return host, int(port)


def listen_tcp(text: str) -> socket.socket:
    """Return a listening socket. All interfaces means IPv6 and IPv4 through one socket, where the host has IPv6.

    Raises: ConfigError for an address that is none, InputError where the address cannot be had.
    """
    host, port = parse_address(text)
    try:
        if host:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listening = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        else:
            listening = _listen_everywhere(port)
    except OSError as error:
        raise InputError(f"cannot listen on {text}: {error.strerror or error}") from error
    listening.setblocking(False)
    return listening


def _listen_everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
    return socket.create_server(("0.0.0.0", port), backlog=BACKLOG)


def url_of(listening: socket.socket, scheme: str) -> str:
    """Return the URL under which this host reaches the socket; the port is the bound one."""
    host, port = listening.getsockname()[:2]
    if host in ("::", "0.0.0.0"):
        host = "localhost"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def listen_unix(path: Path) -> socket.socket:
    """Return a listening Unix socket of mode 0660. A socket nobody answers on is replaced; one that answers is not.

    Raises: InputError where another daemon answers there, the path is too long or cannot be used.
    """
    if len(str(path).encode()) > _MAX_UNIX_PATH_BYTES:
        raise InputError(f"the path of the status socket is longer than {_MAX_UNIX_PATH_BYTES} bytes: {path}")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listening.bind(str(path))
        path.chmod(_SOCKET_MODE)  # before listen(): nobody gets in between with other rights
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise InputError(f"cannot listen on {path}: {error.strerror or error}") from error
    except InputError:
        listening.close()
        raise
    return listening


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        if path.exists():
            raise InputError(f"{path} is in the way: it is no socket")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass  # a full queue or a time-out: somebody holds it, however slow
    raise InputError(f"another gpuwarden answers on {path}")
