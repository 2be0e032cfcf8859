"""The operator: the same HTTP control plane that the console uses, with an operator's key.

Every change carries an idempotency key and is asked again while the registry is away, so a Redis that dies under a move
neither loses it nor makes it twice.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from processes import ProcessError

PATIENCE = 30.0
"""Seconds for which a call is tried again while the gateway or its registry is away."""
Json = dict[str, Any]


class Away(Exception):
    """The control plane did not answer, or said 503: ask again."""


class Operator:
    """Calls of one operator on one domain."""

    def __init__(self, url: str, key: str, domain: str) -> None:
        self.domain = domain
        self.client = httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=20)

    def close(self) -> None:
        self.client.close()

    # --- reading ----------------------------------------------------------------------------------------------------

    def deployment(self) -> Json:
        return dict(self._call("GET", self._path("deployment")))

    def version(self, number: int) -> Json:
        return dict(self._call("GET", self._path(f"versions/{number}")))

    def audit(self) -> list[Json]:
        """Every move so far, the first one first."""
        entries: list[Json] = self._call("GET", self._path("audit"))
        return sorted(entries, key=lambda entry: entry["seq"])

    def samples(self, limit: int = 1000) -> list[Json]:
        return list(self._call("GET", self._path(f"samples?limit={limit}")))

    def scores(self) -> list[Json]:
        return list(self._call("GET", f"/api/domains/{self.domain}")["scores"])

    def run(self, run_id: str) -> Json:
        return dict(self._call("GET", f"/api/runs/{run_id}"))

    def waiting(self) -> list[Json]:
        """Approvals of this domain that wait for a person."""
        return [a for a in self._call("GET", "/api/approvals") if a["domain"] == self.domain]

    def follow(self, run_id: str) -> Iterator[Json]:
        """The events of a run as they come, until it has ended; taken up again where the stream broke."""
        seen = "0"
        while True:
            try:
                path = f"/api/runs/{run_id}/events"
                with self.client.stream("GET", path, headers={"last-event-id": seen}, timeout=60) as reply:
                    for line in reply.iter_lines():
                        name, _, value = line.partition(": ")
                        if name == "id":
                            seen = value
                        elif name == "event" and value == "end":
                            return
                        elif name == "data":
                            yield json.loads(value)
            except httpx.HTTPError:
                pass  # the gateway or its registry is away: the next look says whether the run still is
            if self.run(run_id)["state"] in ("done", "failed", "cancelled"):
                return

    # --- moving -----------------------------------------------------------------------------------------------------

    def optimize(self, *, unseen: list[str], options: Json, why: str) -> str:
        """Ask for a search; the run's id."""
        body = {"unseen": unseen, "options": options, "why": why}
        return str(self._call("POST", self._path("optimize"), body)["run"])

    def add_version(self, text: str, why: str) -> int:
        return int(self._call("POST", self._path("versions"), {"system_prompt": text, "why": why})["version"])

    def move(self, kind: str, **fields: Any) -> Json:
        """``promote``, ``canary``, ``rollback`` or ``abort``: returns the pointers after it."""
        return dict(self._call("POST", self._path(kind), fields))

    def approve(self, approval_id: str, why: str) -> None:
        self._call("POST", f"/api/approvals/{approval_id}", {"decision": "approved", "why": why})

    # --- the one call -----------------------------------------------------------------------------------------------

    def _path(self, rest: str) -> str:
        return f"/api/domains/{self.domain}/{rest}"

    def _call(self, method: str, path: str, body: Json | None = None) -> Any:
        """The JSON answer. Raises ProcessError with what the gateway said when it refuses or stays away."""
        headers = {"idempotency-key": uuid.uuid4().hex} if method == "POST" else {}
        asking = Retrying(
            retry=retry_if_exception_type(Away),
            stop=stop_after_delay(PATIENCE),
            wait=wait_exponential(multiplier=0.1, max=2),
        )
        try:
            return asking(self._once, method, path, body, headers)
        except RetryError as error:
            raise ProcessError(f"The gateway's control plane stays away: {error.last_attempt.exception()}.") from None

    def _once(self, method: str, path: str, body: Json | None, headers: dict[str, str]) -> Any:
        try:
            reply = self.client.request(method, path, json=body, headers=headers)
        except httpx.TransportError as error:
            raise Away(str(error) or type(error).__name__) from error
        if reply.status_code == 503:
            raise Away(said(reply))
        if reply.is_error:
            raise ProcessError(f"The gateway refused {method} {path}: {said(reply)}")
        return reply.json()


def said(reply: httpx.Response) -> str:
    """The sentence inside an error reply."""
    try:
        return str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {reply.status_code}"
