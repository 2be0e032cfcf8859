"""Feedback by signed exchange id: late references, thumbs and scores find the exchange that they are about.

The id that a caller gets in ``x-metaspo-exchange`` names the exchange, its time, key, unit and domain and what
served it, signed (`itsdangerous`, keyed BLAKE2b) with a secret that the whole fleet shares. So any replica can check
it without asking anybody, nobody can make one up, a key can only speak about its own exchanges, and a vote counts
for the right arm also when the exchange was not kept. The unit in it is a digest, never what the caller sent.
"""

from __future__ import annotations

import hashlib
import hmac
from binascii import b2a_base64
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Literal, cast

import msgspec
from itsdangerous import BadSignature, Signer
from itsdangerous.signer import SigningAlgorithm

from gateway.exchange import Exchange, Refusal
from gateway.scrub import Scrubber
from registry import GLOBAL, Arm, Feedback, KeyRecord, unit_digest

FLEET_SECRET = "exchange-id"  # noqa: S105 - its name, not the secret
"""Name of the fleet secret in the registry."""
LIFETIME = 30 * 86_400.0
"""Seconds for which feedback on an exchange is taken: as long as samples live."""
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def record_id(exchange: Exchange) -> str:
    """The id under which an exchange is kept. An SDK's retry (same key, same ``Idempotency-Key``) has the same one."""
    if not exchange.idempotency_key:
        return exchange.id
    owner = exchange.key.id if exchange.key else ""
    return "i" + hashlib.blake2b(exchange.idempotency_key, key=owner.encode()[:64], digest_size=15).hexdigest()


_digest = lru_cache(maxsize=1024)(unit_digest)
"""A unit's digest, made once for the id and the records of one exchange."""


class ExchangeClaim(msgspec.Struct, frozen=True):
    """What a signed id says of its exchange."""

    exchange: str
    at: float
    key: str
    unit: str
    arm: Arm
    version: int | None
    experiment: str
    domain: str


def _claim(text: str) -> ExchangeClaim:
    exchange, at, key, unit, arm, version, experiment, domain = text.split("~")
    return ExchangeClaim(
        exchange, float(int(at, 36)), key, unit, cast(Arm, arm), int(version) if version else None, experiment, domain
    )


class BadExchangeId(Exception):
    """An id that is forged, damaged, of another key or too old; ``refusal`` is the answer."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def _base36(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text or "0"


class _KeyedBlake2(SigningAlgorithm):
    """BLAKE2b with a key, which is a MAC of its own: a quarter of HMAC-SHA-256's time, of note once per request."""

    def __init__(self, secret: bytes) -> None:
        self.keyed = hashlib.blake2b(key=secret[:64], digest_size=24)

    def get_signature(self, key: bytes, value: bytes) -> bytes:  # noqa: ARG002 - the key is in the state already
        mac = self.keyed.copy()
        mac.update(value)
        return mac.digest()


class SignedIds:
    """Issues and checks exchange ids; ``experiment`` names a domain's running canary. Implements
    `gateway.exchange.ExchangeIds`; about 2 microseconds an id.
    """

    def __init__(
        self,
        secret: bytes,
        *,
        clock: Callable[[], float],
        lifetime: float = LIFETIME,
        experiment: Callable[[str], str] = lambda _domain: "",
    ) -> None:
        # The secret is 32 random bytes of its own purpose: deriving a key from it for each id would only cost time.
        self._mac = _KeyedBlake2(secret)
        self._second, self._second_text = 0, ""
        self._signer = Signer(secret, salt=b"", key_derivation="none", algorithm=self._mac)
        self._clock = clock
        self._lifetime = lifetime
        self._experiment = experiment

    def issue(self, exchange: Exchange) -> bytes:
        """``id~time~key~unit~arm~version~experiment~domain.signature``, printable ASCII."""
        domain = exchange.domain or GLOBAL
        arm, version, experiment = "none", "", ""
        if exchange.served_domain == domain:  # a parent's version says nothing about this domain's
            arm = exchange.arm
            if exchange.version is not None:
                version = str(exchange.version)
            if arm in {"canary", "control"}:
                experiment = self._experiment(domain)
        second = int(exchange.started)
        if second != self._second:
            self._second, self._second_text = second, _base36(second)
        identity = record_id(exchange) if exchange.idempotency_key else exchange.id
        key = exchange.key.id if exchange.key else ""
        unit = _digest(exchange.unit)
        # What itsdangerous' Signer makes of it, without its layers for each of thousands a second.
        value = f"{identity}~{self._second_text}~{key}~{unit}~{arm}~{version}~{experiment}~{domain}".encode()
        mac = self._mac.keyed.copy()
        mac.update(value)
        return b"%b.%b" % (value, b2a_base64(mac.digest(), newline=False).translate(_URL_SAFE))

    def _unsigned(self, token: bytes) -> bytes:
        said = self._signer.unsign(token)
        if not hmac.compare_digest(self._signer.sign(said), token):  # base64 has several spellings of one value
            raise BadSignature("not as it was issued")
        return said

    def read(self, token: str, key: KeyRecord) -> ExchangeClaim:
        """What the id says. Raises `BadExchangeId`: 403 for a forged id or another key's, 404 for one too old."""
        try:
            claim = _claim(self._unsigned(token.encode("utf-8")).decode())
        except (BadSignature, ValueError) as error:
            raise BadExchangeId(
                Refusal(403, "This exchange id was not issued here: send the value of x-metaspo-exchange unchanged.",
                        type="permission_error", param="exchange", code="exchange_forged")
            ) from error  # fmt: skip
        if claim.key != key.id:
            raise BadExchangeId(
                Refusal(403, "This exchange belongs to another key: feedback must come with the key that asked.",
                        type="permission_error", param="exchange", code="exchange_of_another_key")
            )  # fmt: skip
        if self._clock() - claim.at > self._lifetime:
            raise BadExchangeId(
                Refusal(404, f"This exchange is more than {self._lifetime / 86_400:g} days old and is forgotten.",
                        param="exchange", code="exchange_expired")
            )  # fmt: skip
        return claim


class FeedbackBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /v1/feedback``: what to say about which exchange."""

    exchange: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    score: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    thumb: Literal["up", "down"] | None = None
    reference: Annotated[str, msgspec.Meta(max_length=100_000)] | None = None
    comment: Annotated[str, msgspec.Meta(max_length=10_000)] = ""


class BadFeedback(Exception):
    """A body that says nothing, or the same thing twice; ``refusal`` is the answer."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.refusal = Refusal(400, message, param=param)


_decode = msgspec.json.Decoder(FeedbackBody).decode


def read_feedback(body: bytes) -> FeedbackBody:
    """The body, checked. Raises `BadFeedback` with one sentence that says what to send."""
    try:
        said = _decode(body)
    except msgspec.ValidationError as error:
        raise BadFeedback(f"The feedback cannot be taken: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFeedback("The body is not valid JSON.") from error
    if said.score is not None and said.thumb is not None:
        raise BadFeedback("Send either 'score' or 'thumb', not both.", "score")
    if said.score is None and said.thumb is None and said.reference is None:
        raise BadFeedback(
            "Say something about the exchange: 'score' (0..1), 'thumb' (up or down) or 'reference'.", "score"
        )
    return said


def vote(said: FeedbackBody, claim: ExchangeClaim, at: float) -> Feedback:
    """The record to store. Reference and comment are scrubbed here: nothing else of them is kept."""
    scrub = Scrubber()
    score = said.score if said.thumb is None else float(said.thumb == "up")
    return Feedback(
        exchange=claim.exchange,
        domain=claim.domain,
        key=claim.key,
        unit=claim.unit,
        arm=claim.arm,
        version=claim.version,
        experiment=claim.experiment,
        at=at,
        score=score,
        reference=None if said.reference is None else scrub(said.reference),
        comment=scrub(said.comment),
    )
