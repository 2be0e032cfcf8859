"""Where a house may live: a home that is its own, an address that is free."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import IO


class ProcessError(Exception):
    """The tree cannot start or go on: the message is one sentence that says what to do."""


def claim_home(home: Path) -> IO[str]:
    """Make `home`, prove that it can be written, and hold its lock until the returned file is closed.

    Raises ProcessError when the folder cannot be made or written, or when another metaspo lives in it."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "up.lock").open("a+")
    except OSError as error:
        raise ProcessError(
            f"home {home} cannot be written ({error.strerror}); choose another folder with `home:` or METASPO_HOME."
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise ProcessError(
            f"home {home} is in use by {holder}; stop that one first, or choose another with `home:` or METASPO_HOME."
        ) from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()}")
    lock.flush()
    return lock


def free_address(listen: str, *, setting: str = "listen") -> tuple[str, int]:
    """Split ``host:port``, prove that nobody listens there, and draw a free port for port 0. Raises ProcessError."""
    host, _, port_text = listen.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    try:
        port = int(port_text)
        family = socket.getaddrinfo(host, port if port in range(65536) else "none", type=socket.SOCK_STREAM)[0][0]
    except (ValueError, socket.gaierror):
        raise ProcessError(
            f"`{setting}: {listen}` is not an address; write it as host:port, for example 127.0.0.1:8080."
        ) from None
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ProcessError(
                f"{host}:{port} cannot be listened on ({error.strerror}); stop what uses it, or choose another with "
                f"`{setting}:` in the config file or METASPO_{setting.upper()}."
            ) from None
        return host, probe.getsockname()[1]


def url_of(host: str, port: int) -> str:
    """Where a server that listens on `host` is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
