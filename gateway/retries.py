"""An SDK's retry of what was answered well before: only the answer was lost on its way, and it is one exchange, not
two.
"""

from __future__ import annotations

from collections import OrderedDict

import xxhash

from gateway.exchange import Exchange

MAX_REQUEST = 1 << 20
"""Bytes of a request body above which an exchange is not kept: it would be cut to pieces anyway."""
REMEMBERED = 4096


class Retries:
    """The exchanges of late that ended well. A retry is known by its ``Idempotency-Key``; else, when the SDK counts its
    retries, by the same body from the same key.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, None] = OrderedDict()

    def repeats(self, exchange: Exchange, identity: str, *, chosen: bool) -> bool:
        """True for such a retry. ``chosen``: the exchange is drawn to be kept; others need not be remembered."""
        if exchange.idempotency_key:
            return self._remember(identity)
        if not (chosen or exchange.retry) or len(exchange.request) > MAX_REQUEST:
            return False
        return self._remember(_fingerprint(exchange)) and exchange.retry

    def _remember(self, name: str) -> bool:
        if name in self._known:
            return True
        self._known[name] = None
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return False


def _fingerprint(exchange: Exchange) -> str:
    key = exchange.key.id if exchange.key else ""
    return key + xxhash.xxh3_128_hexdigest(exchange.request)  # of one key's own: nobody gains by finding two alike
