"""``GET /v1/models`` and ``/v1/models/{id}``: the names that callers may ask for.

With names in the config these are listed; without any, every name is allowed, and the upstream's own list is passed on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import msgspec

from gateway.auth import bearer
from gateway.caller import Receive, Scope, Send
from gateway.errors import UpstreamFailed, error_body, upstream_refusal
from gateway.exchange import Dialect, Refusal
from gateway.refusals import BAD_KEY, NO_KEY, unknown_model
from gateway.relay import kept
from gateway.settings import House, Upstream
from gateway.wire import read_whole

if TYPE_CHECKING:
    from gateway.worker import Worker

_encode = msgspec.json.encode
LONGEST_LIST = 16 * 2**20


class Models:
    """Answers for the paths of the list and of one model."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._created = int(time.time())

    @staticmethod
    def is_at(path: str) -> bool:
        """Whether this path is ours, with or without ``/v1`` and a trailing slash."""
        path = path.removeprefix("/v1")
        return path in ("/models", "/models/") or path.startswith("/models/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        method = scope["method"]
        headers: dict[bytes, bytes] = dict(scope["headers"])
        dialect: Dialect = "messages" if b"anthropic-version" in headers else "models"
        status, fields, body = await self._reply(scope, method, headers, dialect)
        fields = [pair for pair in fields if pair[0] not in (b"content-length", b"content-encoding")]
        fields.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})

    async def _reply(
        self, scope: Scope, method: str, headers: dict[bytes, bytes], dialect: Dialect
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        if method not in ("GET", "HEAD"):
            allow = (b"allow", b"GET, HEAD")
            return _refusal(
                dialect,
                Refusal(
                    405,
                    f"The method {method} is not allowed here: use GET.",
                    code="method_not_allowed",
                    headers=(allow,),
                ),
            )
        token = bearer(
            headers.get(b"authorization", b"").decode("latin-1"), headers.get(b"x-api-key", b"").decode("latin-1")
        )
        if self._worker.keys.caller(token) is None:
            return _refusal(dialect, BAD_KEY if token else NO_KEY)
        # the raw path: ids may hold an escaped slash
        raw = bytes(scope.get("raw_path") or scope["path"].encode())
        name = unquote_to_bytes(raw).decode("utf-8", "replace").removeprefix("/v1").removeprefix("/models").strip("/")
        house = self._worker.pipeline.house
        if not house.exact and not house.prefixes:
            return await self._upstreams_own(house, name, dialect)
        if not name:
            return 200, [_JSON], _encode(self._list(house, dialect))
        router = self._worker.pipeline.router
        route, _ = router.find(name)
        if route is None:
            return _refusal(dialect, unknown_model(name))
        return 200, [_JSON], _encode(self._one(name, route.places[0].upstream.name, dialect))

    def _list(self, house: House, dialect: Dialect) -> dict[str, object]:
        data = [self._one(name, route.places[0].upstream.name, dialect) for name, route in house.exact.items()]
        if dialect == "messages":
            ids = list(house.exact)
            return {
                "data": data,
                "has_more": False,
                "first_id": ids[0] if ids else None,
                "last_id": ids[-1] if ids else None,
            }
        return {"object": "list", "data": data}

    def _one(self, name: str, owner: str, dialect: Dialect) -> dict[str, object]:
        if dialect == "messages":
            created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._created))
            return {"type": "model", "id": name, "display_name": name, "created_at": created}
        return {"id": name, "object": "model", "created": self._created, "owned_by": owner}

    async def _upstreams_own(
        self, house: House, name: str, dialect: Dialect
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        wire = "anthropic" if dialect == "messages" else "openai"
        upstream: Upstream | None = next((up for up in house.upstreams if up.wire == wire), None)
        if upstream is None:
            return (
                (200, [_JSON], _encode(self._list(house, dialect)))
                if not name
                else _refusal(dialect, unknown_model(name))
            )
        try:
            reply = await self._worker.pipeline.wire.get(upstream, "/models" + (f"/{name}" if name else ""))
            try:
                body = await read_whole(reply, LONGEST_LIST)
            finally:
                reply.release()
        except UpstreamFailed as failure:
            return _refusal(dialect, upstream_refusal(failure))
        return reply.status, kept(reply.headers), body


_JSON = (b"content-type", b"application/json")


def _refusal(dialect: Dialect, refusal: Refusal) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    return refusal.status, [_JSON, *refusal.headers], error_body(dialect, refusal)
