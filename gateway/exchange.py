"""The exchange: one request and its reply as they pass, and what the pipeline asks of its neighbours.

The pipeline fills an :class:`Exchange` step by step and hands it on; no step calls back. The protocols below are the
only things the pipeline knows about authentication, limits, metrics, sampling and translation. Each has a plain
stand-in here, so that the hot path runs (and is tested) without any of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol

import msgspec

from registry import Arm, KeyRecord

Dialect = Literal["chat", "responses", "completions", "embeddings", "messages", "models"]
"""What the caller speaks. ``chat`` .. ``embeddings`` and ``models`` are OpenAI's, ``messages`` is Anthropic's."""

Wire = Literal["openai", "anthropic", "litellm"]
"""What an upstream speaks. The wire lane serves equal dialects, the translate lane (LiteLLM) the rest."""

Headers = Sequence[tuple[bytes, bytes]]
"""Header fields in order, names in lower case."""

Ending = Literal["", "refused", "upstream_error", "cut", "timeout", "caller_gone", "failed"]
"""How an exchange ended when it did not end well. ``cut`` and ``timeout`` may follow a partial reply."""


class Usage(msgspec.Struct):
    """Tokens as the provider counted them (OpenAI and Anthropic names both map here)."""

    prompt_tokens: int = 0
    answer_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Target(msgspec.Struct, frozen=True):
    """One place that can answer: an upstream and the model's name there. Prices in USD per million tokens."""

    upstream: str
    wire: Wire
    model: str
    base_url: str = ""
    api_key: str = ""
    price_in: float | None = None
    price_out: float | None = None


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is not carried: becomes an error reply in the caller's dialect."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Exchange:
    """One request and its reply as they pass. Mutable, owned by one task; read-only once it is handed to a recorder.

    ``request`` is the body as the caller sent it (after decompression, before injection); ``reply`` the first bytes of
    the reply as the caller got them, ``reply_tail`` the last ones when ``reply_size`` passed the bound. Times named
    ``*_at`` come from a monotonic clock (seconds), ``started`` is seconds since the epoch.
    """

    __slots__ = (
        "answered_by",
        "arm",
        "dialect",
        "domain",
        "ended_at",
        "ending",
        "estimate",
        "first_byte_at",
        "id",
        "idempotency_key",
        "key",
        "model",
        "received_at",
        "reply",
        "reply_size",
        "reply_tail",
        "request",
        "retry",
        "sample_off",
        "sent_at",
        "served_domain",
        "started",
        "status",
        "stream",
        "target",
        "task",
        "token",
        "traceparent",
        "unit",
        "unit_is_fallback",
        "usage",
        "version",
    )

    def __init__(self, id: str, dialect: Dialect, started: float, received_at: float) -> None:
        self.id = id
        self.dialect: Dialect = dialect
        self.started = started
        self.received_at = received_at
        self.sent_at = 0.0
        """When the request went upstream; 0 when it never did."""
        self.first_byte_at = 0.0
        self.ended_at = 0.0
        self.key: KeyRecord | None = None
        self.domain = ""
        """The domain the request belongs to; empty while none is known."""
        self.served_domain = ""
        """The domain whose version was injected: ``domain``, its parent, or empty."""
        self.task = ""
        self.unit = ""
        self.unit_is_fallback = False
        self.arm: Arm = "none"
        self.version: int | None = None
        self.model = ""
        """As the caller wrote it: never a metric label."""
        self.target: Target | None = None
        self.stream = False
        self.status = 0
        self.ending: Ending = ""
        self.estimate = 0
        """Tokens this request may take, estimated from its size before it is sent."""
        self.usage: Usage | None = None
        self.request = b""
        self.reply: list[bytes] = []
        self.reply_size = 0
        self.reply_tail = b""
        self.sample_off = False
        self.idempotency_key = b""
        self.retry = False
        """The SDK says that it sends this request again (``x-stainless-retry-count``)."""
        self.traceparent = b""
        """The caller's W3C trace context."""
        self.token = b""
        """The signed id that the caller got in ``x-metaspo-exchange``."""
        self.answered_by: Literal["gateway", "upstream"] = "gateway"

    @property
    def ok(self) -> bool:
        """Whole reply with a good status: the only kind that may become a good example."""
        return 200 <= self.status < 300 and not self.ending

    @property
    def latency(self) -> float:
        """Seconds from the request's arrival to the end of its reply."""
        return max(0.0, self.ended_at - self.received_at)

    @property
    def time_to_first_token(self) -> float:
        """Seconds from the request's arrival to the first byte from the upstream; 0 when none came."""
        return max(0.0, self.first_byte_at - self.received_at) if self.first_byte_at else 0.0

    @property
    def overhead(self) -> float:
        """Seconds this gateway spent before it asked the upstream: the part of the latency that is ours."""
        return max(0.0, (self.sent_at or self.ended_at) - self.received_at)


class Auth(Protocol):
    """Who asks. Reads memory only; constant time in the key's text."""

    def caller(self, token: bytes, digest: bytes | None = None) -> KeyRecord | None:
        """The live caller key for this bearer token (empty when none was sent), or None. ``digest``: the token's
        SHA-256, where it is known."""


class Limits(Protocol):
    """What a key may use. Both calls read and write memory only, and never wait."""

    def admit(self, key: KeyRecord, est_tokens: int) -> Refusal | None:
        """Take a place for one request, or say why not (429 with ``retry_after``)."""

    def settle(self, exchange: Exchange) -> None:
        """Give the place back and book what was really used. Called once for each admitted exchange."""


class Recorder(Protocol):
    """Keeps exchanges for learning."""

    def offer(self, exchange: Exchange) -> None:
        """Keep this exchange or not; never waits and never raises: a full queue drops and counts."""


class Metrics(Protocol):
    """Counts what passed."""

    def observe(self, exchange: Exchange) -> None:
        """Count one finished exchange, however it ended. Cheap: called on every request."""


class ExchangeIds(Protocol):
    """Signed ids, by which feedback finds its exchange."""

    def issue(self, exchange: Exchange) -> bytes:
        """The value of ``x-metaspo-exchange``: printable ASCII. Reads id, key, domain, unit and started."""


class TranslateLane(Protocol):
    """Carries a request to an upstream that speaks another dialect."""

    async def send(self, exchange: Exchange, body: bytes, target: Target) -> tuple[int, Headers, AsyncIterator[bytes]]:
        """Send ``body`` (the caller's dialect, prompt already injected) to ``target``.

        Returns status, reply headers (content-type at least) and the body's chunks, already in the caller's dialect.
        Closing the iterator (``aclose``) cancels the upstream call. Raises ``gateway.errors.UpstreamFailed``.
        """


class OpenDoor:
    """Stand-in for :class:`Auth`: anybody is the caller ``anyone``."""

    def __init__(self) -> None:
        self.anyone = KeyRecord(id="anyone", name="anyone", role="caller", hash="")

    def caller(self, token: bytes, digest: bytes | None = None) -> KeyRecord | None:  # noqa: ARG002 - the protocol's signature
        return self.anyone


class NoLimits:
    """Stand-in for :class:`Limits`: everything is admitted."""

    def admit(self, key: KeyRecord, est_tokens: int) -> Refusal | None:  # noqa: ARG002 - the protocol's signature
        return None

    def settle(self, exchange: Exchange) -> None:
        pass


class NothingKept:
    """Stand-in for :class:`Recorder`."""

    def offer(self, exchange: Exchange) -> None:
        pass


class NothingCounted:
    """Stand-in for :class:`Metrics`."""

    def observe(self, exchange: Exchange) -> None:
        pass


class PlainIds:
    """Stand-in for :class:`ExchangeIds`: the bare id, unsigned."""

    def issue(self, exchange: Exchange) -> bytes:
        return exchange.id.encode()
