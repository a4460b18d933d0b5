"""Where the page listens, and what its address is called."""

from __future__ import annotations

import errno
import ipaddress
import socket

from iso3d_jax.core.errors import UserError

TRIES = 100  # ports, where none was asked for


def listen(host: str, port: int | None, first: int) -> socket.socket:
    """A socket that listens.

    Args:
      host: name or address of this machine.
      port: None for the first free one from `first` on.

    Raises:
      UserError: no such address here, or no free port.
    """
    for number in (port,) if port else range(first, first + TRIES):
        try:
            family = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0][0]
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, number))
            listener.listen(128)
            return listener
        except socket.gaierror:
            raise UserError(f"--host {host}: there is no such address") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise UserError(f"--host {host}, port {number}: {error.strerror}") from None
    if port:
        raise UserError(
            f"--port {port} is in use by another program: name another, or leave it out"
        )
    raise UserError(f"no port from {first} to {first + TRIES - 1} is free: name one with --port")


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url(host: str, listener: socket.socket) -> str:
    """What to type into a browser; for all addresses of a machine its name."""
    port = listener.getsockname()[1]
    try:
        if ipaddress.ip_address(host).is_unspecified:
            host = socket.gethostname()
    except ValueError:
        pass
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
