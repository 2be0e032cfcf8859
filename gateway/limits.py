"""What a key may use: requests and tokens a minute, parallel requests, dollars a day.

Admission reads and writes memory only. Each worker counts what it admitted; once a second a `Ledger` adds that to the
fleet's counters in the registry and brings back what the others counted, so that a limit holds for the fleet within
two seconds. While the registry is down the last known counts of the others stand until their window passes, then each
worker holds the limit for itself.

Minutes slide: the count of the last 60 seconds is taken as this minute's plus the still uncovered part of the minute
before, so that nobody gets twice the limit around a full minute. Days are UTC days. Tokens are booked at admission by
the request's estimate and corrected by what the provider counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from gateway.exchange import Exchange, Refusal
from gateway.prices import Price, Prices
from registry import KeyRecord, RegistryError

log = logging.getLogger(__name__)

MINUTE = 60.0
DAY = 86_400.0
RECONCILE_EVERY = 1.0
"""Seconds between two exchanges with the registry."""


class Ledger(Protocol):
    """The fleet's counters: `Registry.add_usage`. One call is one round trip."""

    def __call__(
        self, deltas: dict[str, dict[str, float]], window: str, ttl: float
    ) -> Awaitable[dict[str, dict[str, float]]]:
        """Add to counters by name and field in one window; returns all fields of those names afterwards."""


class _Window:
    """One count in one period of time: ours, what of it the fleet has been told, and what the others have."""

    __slots__ = ("index", "others", "ours", "told")

    def __init__(self, index: int) -> None:
        self.index = index
        self.ours = 0.0
        self.told = 0.0
        self.others = 0.0

    @property
    def total(self) -> float:
        return self.ours + self.others

    def learn(self, told: float, fleet: float) -> None:
        """The fleet has been told ``told`` of ours and counts ``fleet`` in all."""
        self.told = told
        self.others = max(0.0, fleet - told)


class _Rate:
    """A sliding minute."""

    __slots__ = ("before", "now")

    def __init__(self, index: int) -> None:
        self.before = _Window(index - 1)
        self.now = _Window(index)

    def roll(self, index: int) -> None:
        if index != self.now.index:
            self.before = self.now if index == self.now.index + 1 else _Window(index - 1)
            self.now = _Window(index)

    def used(self, into: float) -> float:
        """The count of the last 60 seconds, ``into`` seconds into the minute."""
        before, now = self.before, self.now
        used = now.ours + now.others
        earlier = before.ours + before.others
        return used + earlier * (1 - into / MINUTE) if earlier else used

    def wait(self, more: float, limit: float, into: float) -> float:
        """Seconds until ``more`` fits under ``limit``, if nothing else comes."""
        room = limit - self.now.total - more
        if room >= 0 and self.before.total > 0:
            return max(0.0, (1 - room / self.before.total) * MINUTE - into)
        later = (1 - max(0.0, limit - more) / self.now.total) * MINUTE if self.now.total > 0 else 0.0
        return MINUTE - into + max(0.0, later)


class _Book:
    """What one key has used."""

    __slots__ = (
        "begins",
        "ends",
        "heard",
        "in_flight",
        "in_flight_told",
        "others_in_flight",
        "requests",
        "spent",
        "tokens",
        "touched",
    )

    def __init__(self, minute: int, day: int) -> None:
        self.requests = _Rate(minute)
        self.tokens = _Rate(minute)
        self.spent = _Window(day)
        self.in_flight = 0
        self.in_flight_told = 0
        self.others_in_flight = 0.0
        self.heard = minute
        """The minute in which the fleet's counts last came."""
        self.touched = True
        self.begins = minute * MINUTE
        self.ends = (minute + 1) * MINUTE
        """When the minute begins and ends that was last rolled to."""

    def roll(self, minute: int, day: int) -> None:
        if minute != self.requests.now.index:
            self.in_flight_told = 0  # a new minute's counters begin at zero
            if minute > self.heard + 1:
                self.others_in_flight = 0.0  # the fleet has been silent for a whole minute
        self.begins = minute * MINUTE
        self.ends = (minute + 1) * MINUTE
        self.requests.roll(minute)
        self.tokens.roll(minute)
        if day != self.spent.index:
            self.spent = _Window(day)


def limited(key: KeyRecord) -> bool:
    """True when the key has any limit at all."""
    return not (
        key.requests_per_minute is None
        and key.tokens_per_minute is None
        and key.parallel is None
        and key.usd_per_day is None
    )


class KeyLimits:
    """The limits of all keys in one worker. Implements `gateway.exchange.Limits`.

    ``worker`` names this worker among all of the fleet; ``ledger`` is None where limits hold for one worker only.
    """

    def __init__(
        self, prices: Prices, *, clock: Callable[[], float], worker: str, ledger: Ledger | None = None
    ) -> None:
        self._prices = prices
        self._clock = clock
        self._worker = worker
        self._ledger = ledger
        self._books: dict[str, _Book] = {}
        self._task: asyncio.Task[None] | None = None
        self.reconciled_at: float | None = None

    # --- the request path ---------------------------------------------------------------------------------------------

    def admit(self, key: KeyRecord, est_tokens: int) -> Refusal | None:
        """Take a place for one request, or say why not. Unlimited keys cost nothing and are not counted."""
        if not limited(key):
            return None
        clock = self._clock
        now = clock()
        book = self._books.get(key.id)
        if book is None or not book.begins <= now < book.ends:
            book = self._book(key.id, now)
        refusal = self._refusal(key, book, est_tokens, now)
        if refusal is not None:
            return refusal
        book.requests.now.ours += 1
        book.tokens.now.ours += est_tokens
        book.in_flight += 1
        book.touched = True
        return None

    def settle(self, exchange: Exchange) -> None:
        """Give the place back, correct the tokens by what was used, and book what it cost."""
        key = exchange.key
        book = self._books.get(key.id) if key is not None else None
        if key is None or book is None or not limited(key):
            return
        clock = self._clock
        now = clock()
        if not book.begins <= now < book.ends:
            self._book(key.id, now)
        if book.in_flight > 0:
            book.in_flight -= 1
        book.touched = True
        usage = exchange.usage
        if usage is not None:
            more = usage.prompt_tokens + usage.answer_tokens - exchange.estimate
        elif exchange.answered_by == "upstream" and exchange.status < 400:
            more = 0
        else:
            more = -exchange.estimate
        if more > 0 or exchange.started >= book.begins:  # a minute that has passed is not given anything back
            book.tokens.now.ours += more
        if key.usd_per_day is not None and usage is not None:
            # what has no known price is not counted, but for `metaspo_unpriced_total`
            book.spent.ours += exchange_cost(exchange, self._prices) or 0.0

    def _book(self, key: str, now: float) -> _Book:
        book = self._books.get(key)
        minute, day = int(now // MINUTE), int(now // DAY)
        if book is None:
            book = self._books[key] = _Book(minute, day)
        else:
            book.roll(minute, day)
        return book

    def _refusal(self, key: KeyRecord, book: _Book, est_tokens: int, now: float) -> Refusal | None:
        into = now % MINUTE
        if key.usd_per_day is not None and book.spent.total >= key.usd_per_day:
            return _refused(
                f"The key '{key.name}' has spent its {key.usd_per_day:g} USD for today (UTC).",
                DAY - now % DAY, "insufficient_quota", "budget_exceeded",
            )  # fmt: skip
        if key.parallel is not None and book.in_flight + book.others_in_flight >= key.parallel:
            return _refused(f"The key '{key.name}' may have {key.parallel} requests in flight at once.", 1, "requests")
        rpm, tpm = key.requests_per_minute, key.tokens_per_minute
        if rpm is not None and book.requests.used(into) + 1 > rpm:
            return _refused(
                f"The key '{key.name}' may send {rpm} requests a minute.", book.requests.wait(1, rpm, into), "requests"
            )
        if tpm is not None and book.tokens.used(into) + est_tokens > tpm:
            if est_tokens > tpm:
                return _refused(
                    f"This request needs about {est_tokens} tokens; the key '{key.name}' may use {tpm} a minute.",
                    None, "tokens",
                )  # fmt: skip
            wait = book.tokens.wait(est_tokens, tpm, into)
            return _refused(f"The key '{key.name}' may use {tpm} tokens a minute.", wait, "tokens")
        return None

    # --- with the fleet -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to reconcile in the background, when there is a ledger."""
        if self._ledger is not None and self._task is None:
            self._task = asyncio.create_task(self._reconcile_for_ever(), name="limits")

    async def stop(self) -> None:
        """Tell the fleet the last counts and end."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
            with contextlib.suppress(RegistryError):
                await self.reconcile()

    async def _reconcile_for_ever(self) -> None:
        down = False
        while True:
            await asyncio.sleep(RECONCILE_EVERY)
            try:
                await self.reconcile()
                down = False
            except RegistryError as error:
                if not down:
                    log.warning("limits hold per worker: the registry does not answer (%s)", type(error).__name__)
                down = True

    async def reconcile(self) -> None:
        """One exchange with the ledger. Raises `RegistryError`; then nothing is lost and the next one catches up."""
        if self._ledger is None:
            return
        now = self._clock()
        minute, day = int(now // MINUTE), int(now // DAY)
        books: dict[str, _Book] = {}
        for key, book in list(self._books.items()):
            book.roll(minute, day)
            if book.touched or book.in_flight or not self._idle(book):
                books[key] = book
                book.touched = False
            else:
                del self._books[key]
        if books:
            await self._share_minute(self._ledger, books, minute)
            await self._share_day(self._ledger, books, day)
        self.reconciled_at = now

    async def _share_minute(self, ledger: Ledger, books: dict[str, _Book], minute: int) -> None:
        mine = f"in_flight:{self._worker}"
        before = {key: (book.requests.now.ours, book.tokens.now.ours, book.in_flight) for key, book in books.items()}
        deltas = {
            key: {
                "requests": requests - books[key].requests.now.told,
                "tokens": tokens - books[key].tokens.now.told,
                # A gauge as the sum of its changes; what a killed worker leaves behind ends with the minute.
                mine: float(in_flight - books[key].in_flight_told),
            }
            for key, (requests, tokens, in_flight) in before.items()
        }
        totals = await ledger(deltas, f"m{minute}", 3 * MINUTE)
        for key, (requests, tokens, in_flight) in before.items():
            book, fields = books[key], totals.get(key, {})
            if book.requests.now.index != minute:
                continue  # the minute ended while we asked
            book.requests.now.learn(requests, fields.get("requests", 0.0))
            book.tokens.now.learn(tokens, fields.get("tokens", 0.0))
            book.in_flight_told = in_flight
            book.heard = minute
            others = (count for field, count in fields.items() if field.startswith("in_flight:") and field != mine)
            book.others_in_flight = max(0.0, sum(others))

    async def _share_day(self, ledger: Ledger, books: dict[str, _Book], day: int) -> None:
        before = {key: book.spent.ours for key, book in books.items()}
        deltas = {key: {"usd": ours - books[key].spent.told} for key, ours in before.items()}
        totals = await ledger(deltas, f"d{day}", 2 * DAY)
        for key, ours in before.items():
            if books[key].spent.index == day:
                books[key].spent.learn(ours, totals.get(key, {}).get("usd", 0.0))

    def _idle(self, book: _Book) -> bool:
        return not (book.requests.now.total or book.requests.before.total or book.spent.total)


def exchange_cost(exchange: Exchange, prices: Prices) -> float | None:
    """US dollars of an exchange by the provider's token counts; None where tokens or price are not known."""
    usage, target = exchange.usage, exchange.target
    if usage is None:
        return None
    if target is None:
        price = prices.of(exchange.model)
    elif target.price_in is not None or target.price_out is not None:
        price = Price(target.price_in or 0.0, target.price_out or 0.0)
    else:
        price = prices.of(target.model, exchange.model)
    return None if price is None else price.cost(usage.prompt_tokens, usage.answer_tokens, usage.cached_tokens)


def _refused(message: str, retry_after: float | None, kind: str, code: str = "rate_limit_exceeded") -> Refusal:
    return Refusal(429, message, type=kind, code=code, retry_after=retry_after)
