"""Which gateway worker serves what: one open connection to each worker process, asked in turn.

The workers share a port and the kernel spreads connections over them, so a connection is opened, its other end looked
up among the workers' sockets, and kept when it is the first to that worker.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import psutil

from processes import ProcessError

ATTEMPTS = 200


class Fleet:
    """The worker processes under the gateway's process, each behind a connection of its own.

    `parent` gives the gateway's process id as it is now: it may have been started again.
    """

    def __init__(self, url: str, parent: Callable[[], int], key: str, body: Mapping[str, Any]) -> None:
        where = urlsplit(url)
        self.address = (where.hostname or "127.0.0.1", where.port or 80)
        self.parent = parent
        self.headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "x-metaspo-sample": "off"}
        self.body = json.dumps(body)
        self.connections: dict[int, http.client.HTTPConnection] = {}

    def meet(self) -> int:
        """Connect to every worker; the number of them. Raises ProcessError when one cannot be met."""
        parent = self.parent()
        try:
            workers = [child.pid for child in psutil.Process(parent).children()] or [parent]
        except psutil.Error:
            raise ProcessError("The gateway has just ended; start again to go on.") from None
        for gone in set(self.connections).difference(workers):
            self.connections.pop(gone).close()
        for _ in range(ATTEMPTS):
            if len(self.connections) == len(workers):
                self._wait_until_ready()
                return len(workers)
            connection = http.client.HTTPConnection(*self.address, timeout=60)
            connection.connect()
            own_port = connection.sock.getsockname()[1]
            pid = next((pid for pid in workers if own_port in _peers(pid)), None)
            if pid is None or pid in self.connections:
                connection.close()
            else:
                self.connections[pid] = connection
        raise ProcessError(f"Only {len(self.connections)} of {len(workers)} gateway workers could be reached.")

    def _wait_until_ready(self, within: float = 30.0) -> None:
        """The address answers as soon as one worker is ready; here all of them must be."""
        until = time.monotonic() + within
        for pid, connection in self.connections.items():
            while True:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    connection.request("GET", "/readyz")
                    reply = connection.getresponse()
                    reply.read()
                    if reply.status == 200:
                        break
                if time.monotonic() > until:
                    raise ProcessError(f"The gateway worker {pid} was not ready within {within:.0f} s.")
                time.sleep(0.05)

    def versions(self) -> dict[int, int | None]:
        """What each worker serves to a request just now, by its process id."""
        return {pid: self._version(connection) for pid, connection in self.connections.items()}

    def until(self, version: int, *, since: float, clock: Callable[[], float], within: float = 10.0) -> float:
        """Milliseconds from `since` until every worker had answered a request with `version`."""
        missing = set(self.connections)
        while missing:
            for pid in list(missing):
                if self._version(self.connections[pid]) == version:
                    missing.discard(pid)
            if missing and clock() - since > within:
                raise ProcessError(
                    f"{len(missing)} gateway workers did not serve version {version} within {within:.0f} s."
                )
            if missing:
                time.sleep(0.005)
        return (clock() - since) * 1000

    def close(self) -> None:
        for connection in self.connections.values():
            connection.close()

    def _version(self, connection: http.client.HTTPConnection) -> int | None:
        try:
            connection.request("POST", "/v1/chat/completions", self.body, self.headers)
            reply = connection.getresponse()
            reply.read()
        except (OSError, http.client.HTTPException):
            connection.close()  # it connects again by itself, then perhaps to another worker
            return None
        version = reply.headers.get("x-metaspo-version")
        return int(version) if version else None


def _peers(pid: int) -> set[int]:
    """The remote ports of a process's connections."""
    try:
        return {link.raddr.port for link in psutil.Process(pid).net_connections("tcp") if link.raddr}
    except psutil.Error:
        return set()
