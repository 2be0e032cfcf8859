"""The head of a request, read once: a caller's next request on the same connection usually has the same one."""

from __future__ import annotations

import re
from hashlib import sha256

from gateway.dialects import Speech

FORWARDED = (
    b"accept",
    b"user-agent",
    b"idempotency-key",
    b"openai-beta",
    b"anthropic-version",
    b"anthropic-beta",
    b"x-client-request-id",
    b"x-stainless-retry-count",
    b"traceparent",
    b"tracestate",
)
"""Request header fields that go on to the upstream; all others (credentials, cookies, hops, addresses) stay here."""


class Head:
    """What the gateway reads of a head. Immutable: requests with an equal head share it.

    ``headers``: names in lower case; of repeated ones the last counts.
    """

    __slots__ = (
        "digest",
        "domain",
        "encoding",
        "forwarded",
        "headers",
        "idempotency_key",
        "inject",
        "is_json",
        "origin",
        "path",
        "query",
        "retry",
        "sample_off",
        "task",
        "token",
        "traceparent",
        "unit",
        "wishes",
    )

    def __init__(self, path: str, query: bytes, headers: dict[bytes, bytes]) -> None:
        get = headers.get
        self.path = path
        self.query = query
        self.headers = headers
        bearer = get(b"authorization", b"")
        self.token = bearer[7:].strip() if bearer[:7].lower() == b"bearer " else get(b"x-api-key", b"")
        """The caller's key; empty when none was sent."""
        self.digest = sha256(self.token).digest()
        kind = get(b"content-type")
        self.is_json = kind is None or b"json" in kind.lower()
        self.encoding = get(b"content-encoding")
        self.idempotency_key = get(b"idempotency-key", b"")
        self.retry = get(b"x-stainless-retry-count", b"0") != b"0"
        self.traceparent = get(b"traceparent", b"")
        self.origin = get(b"origin")
        self.sample_off = get(b"x-metaspo-sample") == b"off"
        self.wishes = self.sample_off or self.retry or bool(self.idempotency_key or self.traceparent)
        """Whether any of these four says something."""
        self.inject = get(b"x-metaspo-inject") != b"off"
        domain = get(b"x-metaspo-domain")
        self.domain = None if domain is None else domain.decode("latin-1")
        self.task = get(b"x-metaspo-task", b"").decode("latin-1")
        self.unit = get(b"x-metaspo-unit", b"").decode("utf-8", "replace")
        self.forwarded = b"".join([b"\r\n%b: %b" % (name, headers[name]) for name in FORWARDED if name in headers])
        """The fields that go on to the upstream, each with a line break before it."""


LONGEST_KNOWN = 8192
"""Bytes of a head that is remembered."""
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)(?=\r\n)", re.IGNORECASE)
_NOT_LEARNED = frozenset((b"transfer-encoding", b"expect", b"upgrade"))


class KnownHead:
    """The bytes of a head around the digits of its ``content-length``, and what the parser made of it.

    Met again byte for byte, but for these digits, it needs no parser to mean the same.
    """

    __slots__ = ("after", "before", "digits_at", "head", "speech")

    def __init__(self, before: bytes, after: bytes, speech: Speech, head: Head) -> None:
        self.before = before
        self.digits_at = len(before)
        self.after = after
        self.speech = speech
        self.head = head

    @classmethod
    def of(cls, data: bytes, speech: Speech, head: Head, fields: int) -> KnownHead | None:
        """The head that ``data`` begins with, in which the parser found so many fields; None when it is of a kind
        whose framing says more than one length."""
        end = data.find(b"\r\n\r\n", 0, LONGEST_KNOWN) + 4
        raw = data[:end]
        lengths = list(_LENGTH.finditer(raw))
        lines = raw.count(b"\r\n")
        if (
            end < 4
            or len(lengths) != 1
            or lines != fields + 2  # each on a line of its own,
            or lines != raw.count(b"\n")  # and no line ends without CR
            or not _NOT_LEARNED.isdisjoint(head.headers)
        ):
            return None
        start, stop = lengths[0].span(1)
        return cls(raw[:start], raw[stop:], speech, head)
