"""Who sits at the console: sign-in with an operator's or viewer's key, a signed cookie, and forms that only we sent.

The cookie names the key, not its text, and is checked against the live keys on every page: a revoked key is signed out
within a second. It is HttpOnly and SameSite=Strict, and Secure behind TLS. Every form carries a token bound to that
cookie, so that another site can neither send nor guess one.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.responses import Response

from gateway.auth import KeyRing
from registry import KeyRecord

COOKIE = "metaspo_session"
LIFETIME = 12 * 3600
"""Seconds after which a person signs in again."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A signed-in person: the key they came with, and the token that their forms carry."""

    key: KeyRecord
    csrf: str

    @property
    def name(self) -> str:
        """The key's name: what stands in the audit."""
        return self.key.name

    @property
    def may_move(self) -> bool:
        """Operators change things; viewers only look."""
        return self.key.role == "operator"


class Sessions:
    """Makes and reads the cookie. ``nonce`` hands in a fresh random text for each sign-in."""

    def __init__(self, secret: bytes, keys: KeyRing, nonce: Callable[[], str]) -> None:
        self._cookies = URLSafeTimedSerializer(secret, salt="metaspo console session")
        self._forms = URLSafeTimedSerializer(secret, salt="metaspo console form")
        self._said = URLSafeTimedSerializer(secret, salt="metaspo console said")
        self._keys = keys
        self._nonce = nonce

    def visitor(self, request: Request) -> Visitor | None:
        """Who asks; None without a cookie, with an old or forged one, or when the key is no longer good."""
        cookie = request.cookies.get(COOKIE, "")
        try:
            id, nonce = self._cookies.loads(cookie, max_age=LIFETIME)
        except (BadSignature, ValueError, TypeError):
            return None
        key = self._keys.by_id(str(id))
        if key is None or key.role == "caller":
            return None
        return Visitor(key, str(self._forms.dumps([id, nonce])))

    def sign_in(self, text: str) -> KeyRecord | None:
        """The operator's or viewer's key with this text, if it is alive."""
        return self._keys.operator(text.strip().encode("utf-8", "replace"))

    def remember(self, response: Response, key: KeyRecord, *, secure: bool, path: str) -> None:
        """Set the cookie."""
        response.set_cookie(
            COOKIE,
            str(self._cookies.dumps([key.id, self._nonce()])),
            max_age=LIFETIME,
            path=path,
            secure=secure,
            httponly=True,
            samesite="strict",
        )

    def forget(self, response: Response, *, path: str) -> None:
        """Take the cookie away."""
        response.delete_cookie(COOKIE, path=path)

    def sealed(self, visitor: Visitor, said: str) -> str:
        """What the next page is to say, so that nobody else can put words into the console's mouth by a link."""
        return str(self._said.dumps([visitor.key.id, said]))

    def unsealed(self, visitor: Visitor, token: str) -> str:
        """The sentence that was sealed for this visitor within the hour; empty for anything else."""
        try:
            id, said = self._said.loads(token, max_age=3600)
        except (BadSignature, ValueError, TypeError):
            return ""
        return str(said) if id == visitor.key.id else ""

    def sent_by(self, visitor: Visitor, token: str) -> bool:
        """Whether a form with this token came from a page that we gave to this visitor in this session."""
        try:
            mine = self._forms.loads(visitor.csrf)
            theirs = self._forms.loads(token, max_age=LIFETIME)
        except (BadSignature, ValueError, TypeError):
            return False
        return hmac.compare_digest(repr(mine), repr(theirs))
