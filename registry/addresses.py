"""Addresses of Redis: what may stand in ``redis_url``, and the client it means."""

from __future__ import annotations

import re
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import redis.exceptions as foreign
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff

from registry.errors import Refused

Client = Redis | RedisCluster


def retry_policy() -> Retry:
    """Try a lost connection again, three times, with growing pauses and jitter."""
    return Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.3), 3, supported_errors=(foreign.ConnectionError,))


def open_client(url: str, options: dict[str, Any]) -> Client:
    """``redis://``, ``rediss://`` (TLS), ``unix://``, ``redis+cluster://``, ``redis+sentinel://`` -> a client."""
    parts = urlsplit(url)
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    scheme = parts.scheme.replace("valkey", "redis")
    user: dict[str, Any] = {"username": unquote(parts.username) if parts.username else None}
    user["password"] = unquote(parts.password) if parts.password else None
    if scheme == "unix":
        return Redis(unix_socket_path=unquote(parts.path), db=_number(query.get("db", "0"), url), **user, **options)
    tls = scheme.startswith("rediss")
    tls_options: dict[str, Any] = _tls(query) if tls else {}
    path = [unquote(piece) for piece in parts.path.split("/") if piece]
    if scheme in ("redis", "rediss"):
        database = _number(path[0] if path else query.get("db", "0"), url)
        host, port = _hosts(parts.netloc, 6379, url)[0]
        return Redis(host=host, port=port, db=database, ssl=tls, **tls_options, **user, **options)
    if scheme in ("redis+cluster", "rediss+cluster", "cluster"):
        nodes = [ClusterNode(host, port) for host, port in _hosts(parts.netloc, 6379, url)]
        retry = options.pop("retry")
        return RedisCluster(startup_nodes=nodes, ssl=tls, retry=retry, **tls_options, **user, **options)
    if scheme in ("redis+sentinel", "rediss+sentinel", "sentinel"):
        if not path:
            raise Refused(f"The address {hidden(url)} must name the master: redis+sentinel://host:26379/mymaster/0.")
        sentinels: Any = Sentinel(  # type: ignore[no-untyped-call]
            _hosts(parts.netloc, 26379, url),
            sentinel_kwargs={
                "socket_timeout": 0.5,
                "socket_connect_timeout": 0.5,
                "protocol": 2,
                "retry": Retry(NoBackoff(), 0),
                "username": query.get("sentinel_username"),
                "password": query.get("sentinel_password"),
            },
        )
        database = _number(path[1] if len(path) > 1 else "0", url)
        master = sentinels.master_for(
            path[0], redis_class=Redis, db=database, ssl=tls, **tls_options, **user, **options
        )
        return cast("Redis", master)
    raise Refused(
        f"{hidden(url)} is not an address of Redis: it begins with redis://, rediss://, unix://, redis+cluster://"
        " or redis+sentinel://."
    )


def _tls(query: dict[str, str]) -> dict[str, Any]:
    known = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")
    return {key: query[key] for key in known if key in query}


def _hosts(netloc: str, port: int, url: str) -> list[tuple[str, int]]:
    places = []
    for place in netloc.rpartition("@")[2].split(","):
        host, colon, text = place.rpartition(":")
        if not colon or place.endswith("]"):
            host, text = place, str(port)
        places.append((host.strip("[]") or "127.0.0.1", _number(text, url)))
    return places


def _number(text: str, url: str) -> int:
    if not text.isdigit():
        raise Refused(f"The address {hidden(url)} holds {text!r} where a number must stand.")
    return int(text)


def hidden(url: str) -> str:
    return re.sub(r"(//[^:/@]*):[^@/]*@", r"\1:***@", url)
