"""The one edge to Redis: addresses, time-outs, retries, scripts, confirmation of durability, and error translation.

Everything above this file speaks in our own errors. Every command that goes through here may be sent twice (a
connection can die between execution and answer), so every write above is idempotent: by compare-and-set, by request id,
or by nature.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final, cast

import redis.exceptions as foreign
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode

from registry.addresses import Client, hidden, open_client, retry_policy
from registry.errors import Corrupt, NotConfirmed, Refused, RegistryError, RegistryUnavailable
from registry.redis_keys import PREFIX, Keys
from registry.scripts import script

CONNECT_TIMEOUT: Final = 1.0
ANSWER_TIMEOUT: Final = 2.0
CONFIRM_TIMEOUT: Final = 1.5
"""Less than the answer time-out, so that a missing confirmation is told apart from a missing server."""
_AT_ONE_TIME: Final = 64
_BUSY = (
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "READONLY",
    "TRYAGAIN",
    "UNBLOCKED",
)

Value = bytes | str | int | float


class Connection:
    """A Redis, Valkey, Sentinel or Cluster, by address. Made by ``open``; every method raises only RegistryError."""

    def __init__(self, url: str, client: Client, keys: Keys, *, answer_timeout: float = ANSWER_TIMEOUT) -> None:
        self.url = url
        self.keys = keys
        self.client = client
        self.clustered = isinstance(client, RedisCluster)
        self.confirm_replicas = 0
        self.confirm_local = False
        self._read_only_scripts = True
        self._gate = asyncio.Semaphore(_AT_ONE_TIME)
        self._answer_timeout = answer_timeout

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        prefix: str = PREFIX,
        connect_timeout: float = CONNECT_TIMEOUT,
        answer_timeout: float = ANSWER_TIMEOUT,
        confirm_replicas: int = 0,
        reads_only: bool = False,
    ) -> Connection:
        """Connect and, unless it only reads, learn what the server can confirm.

        Raises RegistryUnavailable, Refused (bad address).
        """
        options: dict[str, Any] = {
            "socket_timeout": answer_timeout,
            "socket_connect_timeout": connect_timeout,
            "protocol": 2,
            "retry": retry_policy(),
        }
        connection = cls(url, open_client(url, options), Keys(prefix), answer_timeout=answer_timeout)
        try:
            with connection.translated():
                await connection.client.ping()
            if not reads_only:
                await connection._learn(confirm_replicas)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _learn(self, confirm_replicas: int) -> None:
        """WAITAOF exists since Redis 7.2 and Valkey 7.2; it is of use when the file is synced later than the answer."""
        self.confirm_replicas = confirm_replicas
        if (await self.server_settings()).get("appendfsync") == "always":
            return
        with contextlib.suppress(RegistryError):
            await self.command("WAITAOF", 1, 0, 1)
            self.confirm_local = True

    async def server_settings(self) -> dict[str, str]:
        """The settings that decide what can be lost; empty where the user may not read them."""
        found: dict[str, str] = {}
        for name in ("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy"):
            try:
                answer = await self.command("CONFIG", "GET", name)
            except RegistryError:
                continue
            if isinstance(answer, dict):
                found |= {_text(key): _text(value) for key, value in answer.items()}
            elif answer:
                found[name] = _text(answer[1])
        return found

    async def close(self) -> None:
        """Close every connection."""
        clients: list[Any] = [self.client, *([self._long] if "_long" in self.__dict__ else [])]
        for client in tuple(clients):  # a client found through Sentinel does not close its own way of asking
            manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
            clients += manager.sentinels if manager is not None else []
        await _close_all(clients)

    @contextlib.asynccontextmanager
    async def patient(self, seconds: float) -> AsyncIterator[Connection]:
        """Another connection to the same server that waits longer for an answer, for what is large."""
        options = {
            "socket_timeout": seconds,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "protocol": 2,
            "retry": retry_policy(),
        }
        other = Connection(self.url, open_client(self.url, options), self.keys, answer_timeout=seconds)
        try:
            yield other
        finally:
            await other.close()

    # --- commands -------------------------------------------------------------------------------------------------

    async def command(self, *parts: Value) -> Any:
        """One command."""
        async with self._gate:
            with self.translated():
                if self.clustered and parts[0] in ("CONFIG", "WAITAOF", "INFO", "DBSIZE"):
                    node = cast("RedisCluster", self.client).get_default_node()
                    return await self.client.execute_command(*parts, target_nodes=node)
                return await self.client.execute_command(*parts)

    async def wait_for(self, *parts: Value) -> Any:
        """One blocking command; it may wait longer than the answer time-out, and does not count among those at one
        time.
        """
        with self.translated():
            return await self._long.execute_command(*parts)

    @functools.cached_property
    def _long(self) -> Client:
        return open_client(
            self.url,
            {"socket_timeout": None, "socket_connect_timeout": CONNECT_TIMEOUT, "protocol": 2, "retry": retry_policy()},
        )

    async def many(
        self, commands: Sequence[Sequence[Value]], *, wrong_type: object = None, at_once: bool = False
    ) -> list[Any]:
        """Independent commands in one round trip (in a Cluster: one per node). Not atomic.

        ``at_once`` (not in a Cluster): the server makes them one change, so that one which syncs its file before each
        answer syncs it once for all of them.

        ``wrong_type``: the answer in place of one that fails because its key holds another kind of value; absent, that
        is an error of all.
        """
        if not commands:
            return []
        async with self._gate:
            with self.translated():
                pipe: Any = self.client.pipeline() if self.clustered else self.client.pipeline(transaction=at_once)
                async with pipe:
                    for command in commands:
                        pipe.execute_command(*command)
                    if wrong_type is None:
                        return cast("list[Any]", await pipe.execute())
                    return [_unless_wrong(answer, wrong_type) for answer in await pipe.execute(raise_on_error=False)]

    async def read(self, name: str, keys: Sequence[str], args: Sequence[Value]) -> Any:
        """One Lua script that only reads: a user who may not write these keys may run it (since Redis 7)."""
        if self._read_only_scripts and not self.clustered:
            source = script(name)
            async with self._gate:
                with self.translated():
                    try:
                        try:
                            return await self.client.execute_command("EVALSHA_RO", source.sha, len(keys), *keys, *args)
                        except foreign.NoScriptError:
                            return await self.client.execute_command("EVAL_RO", source.text, len(keys), *keys, *args)
                    except foreign.ResponseError as error:
                        if "unknown command" not in str(error):
                            raise
                        self._read_only_scripts = False
        return await self.run(name, keys, args)

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Value], *, confirm: bool = False) -> Any:
        """One Lua script of ours; all ``keys`` share one hash tag.

        ``confirm``: return only when the server says that the write is on its disk (and on ``confirm_replicas``
        replicas), as far as it can say. Raises NotConfirmed when it does not say so in time.
        """
        source = script(name)
        tail = (len(keys), *keys, *args)
        async with self._gate:
            with self.translated():
                waits = self._confirmation() if confirm else None
                if waits is not None:
                    return await self._run_confirmed(keys[0], source.sha, source.text, tail, waits)
                try:
                    return await self.client.execute_command("EVALSHA", source.sha, *tail)
                except foreign.NoScriptError:
                    return await self.client.execute_command("EVAL", source.text, *tail)

    def _confirmation(self) -> tuple[Value, ...] | None:
        milliseconds = int(CONFIRM_TIMEOUT * 1000)
        if self.confirm_local:
            return ("WAITAOF", 1, self.confirm_replicas, milliseconds)
        if self.confirm_replicas:
            return ("WAIT", self.confirm_replicas, milliseconds)
        return None

    async def _run_confirmed(
        self, key: str, sha: str, text: str, tail: tuple[Value, ...], waits: tuple[Value, ...]
    ) -> Any:
        """Script and WAIT must travel on one connection: the server waits for what *this* connection wrote."""
        answers = await self._on_one_connection(key, [("EVALSHA", sha, *tail), waits])
        if isinstance(answers[0], foreign.NoScriptError):
            answers = await self._on_one_connection(key, [("EVAL", text, *tail), waits])
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        local_and_replicas = answers[1] if isinstance(answers[1], list) else [1, answers[1]]
        if local_and_replicas[0] < (1 if self.confirm_local else 0) or local_and_replicas[1] < self.confirm_replicas:
            raise NotConfirmed(
                "The change was made, but Redis did not confirm within"
                f" {CONFIRM_TIMEOUT:g} s that it is on disk: ask again with the same request id."
            )
        return answers[0]

    async def _on_one_connection(self, key: str, commands: list[tuple[Value, ...]]) -> list[Any]:
        if not self.clustered:
            pipe = cast("Redis", self.client).pipeline(transaction=False)
            async with pipe:
                for command in commands:
                    pipe.execute_command(*command)
                return await pipe.execute(raise_on_error=False)
        cluster = cast("RedisCluster", self.client)
        for attempt in range(4):
            await cluster.initialize()
            node = cast("ClusterNode", cluster.get_node_from_key(key))
            try:
                answers = await _exchange(node, commands)
            except (foreign.ConnectionError, OSError):
                if attempt == 3:
                    raise
                await asyncio.sleep(0.05 * 2**attempt)
            else:
                if not isinstance(answers[0], foreign.MovedError | foreign.AskError):
                    return answers
            await cluster.execute_command("EXISTS", key)  # follows the redirection and learns the new place
        raise foreign.ClusterError("the slot keeps moving")

    # --- push -----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def subscription(self, channel: str) -> Any:
        """A subscribed ``PubSub``. In a Cluster any node will do: plain messages reach all of them."""
        client: Any = self.client
        owned: Redis | None = None
        if self.clustered:
            cluster = cast("RedisCluster", self.client)
            with self.translated():
                await cluster.initialize()
            node: Any = cluster.get_random_node()
            kept = ("host", "port", "username", "password", "ssl", "socket_timeout", "socket_connect_timeout")
            options = {key: value for key, value in node.connection_kwargs.items() if key in kept}
            owned = client = Redis(**{**options, "host": node.host, "port": node.port, "protocol": 2})
        pubsub = client.pubsub()
        try:
            with self.translated():
                await pubsub.subscribe(channel)
                if await pubsub.get_message(timeout=self._answer_timeout) is None:
                    raise TimeoutError  # what is told before the server says that it listens would be lost
            yield pubsub
        finally:
            # Shielded: a second cancellation must not leave the sockets open.
            await asyncio.shield(_close_all([pubsub, *([owned] if owned is not None else [])]))

    async def scan(self, pattern: str) -> list[bytes]:
        """Every key of that pattern, on every node."""
        with self.translated():
            return [key async for key in self.client.scan_iter(match=pattern, count=1000)]

    async def walk(self, prefix: str) -> AsyncIterator[bytes]:
        """The keys under a prefix, on every node, as the server tells them: some may come twice, none is left out."""
        escaped = re.sub(r"([\[\]*?\\])", r"\\\1", prefix)
        with self.translated():
            async for key in self.client.scan_iter(match=f"{escaped}:*", count=1000):
                yield key

    # --- the edge -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Errors of the Redis client become ours."""
        try:
            yield
        except (foreign.TimeoutError, TimeoutError) as error:
            raise RegistryUnavailable(
                f"Redis at {self.shown} did not answer within {self._answer_timeout:g} s."
            ) from error
        except foreign.NoPermissionError as error:
            raise Refused(f"The Redis user may not do this ({error}): connect as the control user.") from error
        except (foreign.ConnectionError, foreign.ClusterError, foreign.RedisClusterException, OSError) as error:
            if isinstance(error, foreign.AuthenticationError) or "username-password" in str(error):
                raise RegistryUnavailable(
                    f"Redis at {self.shown} refuses the user or password: {_first_line(error)}."
                ) from error
            raise RegistryUnavailable(f"Redis at {self.shown} cannot be reached: {_first_line(error)}.") from error
        except AttributeError as error:
            # The cluster client drops a node's connections under another task that is just using one.
            raise RegistryUnavailable(f"Redis at {self.shown} closed the connection.") from error
        except foreign.ResponseError as error:
            text = _first_line(error)
            if text.startswith(_BUSY) or isinstance(error, foreign.ReadOnlyError | foreign.OutOfMemoryError):
                raise RegistryUnavailable(f"Redis at {self.shown} takes no writes just now: {text}.") from error
            if "NOPERM" in text or "ACL failure" in text or "No permissions" in text:
                raise Refused(f"The Redis user may not do this ({text}): connect as the control user.") from error
            if "WRONGTYPE" in text:
                raise Corrupt(f"A key of ours holds a foreign value: {text}.") from error
            raise RegistryError(f"Redis at {self.shown} refused a command: {text}.") from error

    @property
    def shown(self) -> str:
        """The address without its password."""
        return hidden(self.url)


async def _close_all(clients: Sequence[Any]) -> None:
    for client in clients:
        with contextlib.suppress(foreign.RedisError, OSError, AttributeError):
            await client.aclose()


async def _exchange(node: ClusterNode, commands: list[tuple[Value, ...]]) -> list[Any]:
    """Send all, then read all, on one connection. A ResponseError of a command stands in its place."""
    connection = node.acquire_connection()
    try:
        await connection.send_packed_command(connection.pack_commands(commands))
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except foreign.ResponseError as error:
                answers.append(error)
        return answers
    finally:
        node.release(connection)


def _unless_wrong(answer: Any, wrong_type: object) -> Any:
    if isinstance(answer, Exception):
        if "WRONGTYPE" in str(answer):
            return wrong_type
        raise answer
    return answer


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
