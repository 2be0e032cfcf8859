"""What a run has spent and may still spend. The budget is a hard stop: a call is admitted before it is made.

Calls are counted once per distinct request: a request answered from the cache costs nothing, one answered from the
journal of an interrupted session counts as paid (it was), so a resumed run stops where an undisturbed one would have.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import msgspec

from optimizer.errors import BudgetSpent
from optimizer.records import Budget, Completion, Ledger, LedgerRow, ModelRole, Request

_CHARACTERS_PER_TOKEN = 3
"""A cautious reading of text before it is sent: real tokenizers give 3 to 5 characters of English per token."""


class Price(msgspec.Struct, frozen=True):
    """USD per million tokens. ``known`` False means that nobody told and the sums are a lower bound."""

    per_million_in: float = 0.0
    per_million_out: float = 0.0
    known: bool = True

    def of(self, tokens_in: float, tokens_out: float) -> float:
        """The price in USD of so many tokens."""
        return (tokens_in * self.per_million_in + tokens_out * self.per_million_out) / 1e6


class _Row:
    __slots__ = ("cache_hits", "paid", "replayed", "requested", "tokens_cached", "tokens_in", "tokens_out", "usd")

    def __init__(self) -> None:
        self.requested = self.paid = self.cache_hits = self.replayed = 0
        self.tokens_in = self.tokens_out = self.tokens_cached = 0
        self.usd = 0.0


class Spending:
    """The running account of one run."""

    def __init__(self, budget: Budget, prices: Mapping[ModelRole, Price]) -> None:
        self.budget = budget
        self._prices = prices
        self._rows: dict[ModelRole, _Row] = defaultdict(_Row)
        self._rejects: Counter[str] = Counter()
        self.headroom = 0
        """Calls paid so far that asked whether prompts matter at all."""
        self._paid = 0
        self._held = 0
        self._usd = 0.0
        self._usd_held = 0.0
        self._in_the_air = 0

    @property
    def calls(self) -> int:
        """Calls paid so far, all roles."""
        return self._paid

    @property
    def usd(self) -> float:
        """Money spent so far, all roles."""
        return self._usd

    @property
    def calls_left(self) -> int | None:
        """How many more calls the budget admits, those in the air counted as spent; None without a limit."""
        return None if self.budget.calls is None else max(0, self.budget.calls - self._paid - self._held)

    def hold(self, calls: int) -> None:
        """Set ``calls`` aside for a block of calls. Raises ``BudgetSpent``, having held nothing, when they do not
        fit."""
        left = self.calls_left
        if left is not None and calls > left:
            raise BudgetSpent(
                f"The budget of {self.budget.calls} calls is spent: {self._paid} made, the next step needs {calls}."
            )
        self._held += calls

    def release(self, calls: int) -> None:
        """Give back what was held and not used."""
        self._held -= calls

    def hold_usd(self, request: Request) -> float | None:
        """Set the most that ``request`` can cost aside and return it; None when that must wait for a call in the air to
        land and tell its true price. Raises ``BudgetSpent`` when it does not fit even so."""
        if self.budget.usd is None:
            return 0.0
        characters = sum(len(content) for _, content in request.messages)
        worst = self._price(request.role).of(characters / _CHARACTERS_PER_TOKEN + 16, request.max_tokens)
        if self._usd + self._usd_held + worst > self.budget.usd:
            if self._in_the_air:
                return None
            raise BudgetSpent(
                f"The budget of {self.budget.usd:.2f} USD is spent: {self._usd:.4f} were paid, "
                f"and the next call may cost up to {worst:.4f}."
            )
        self._usd_held += worst
        self._in_the_air += 1
        return worst

    def release_usd(self, held: float) -> None:
        """Give back what was held for one call."""
        if self.budget.usd is not None:
            self._usd_held -= held
            self._in_the_air -= 1

    def asked(self, role: ModelRole, calls: int) -> None:
        """Count ``calls`` evaluations as requested, however they are answered."""
        self._rows[role].requested += calls

    def paid(self, role: ModelRole, reply: Completion, *, replayed: bool) -> None:
        """Book one reply that was paid for, now or by an earlier session (``replayed``)."""
        row = self._rows[role]
        row.paid += 1
        row.replayed += replayed
        row.tokens_in += reply.tokens_in
        row.tokens_out += reply.tokens_out
        row.tokens_cached += reply.tokens_cached
        usd = self._price(role).of(reply.tokens_in, reply.tokens_out)
        row.usd += usd
        self._paid += 1
        self._usd += usd

    def hit(self, role: ModelRole) -> None:
        """Book one reply that the cache gave for nothing."""
        self._rows[role].cache_hits += 1

    def reject(self, why: str) -> None:
        """Count a candidate that was refused before any base call."""
        self._rejects[why] += 1

    def ledger(self, retries: Mapping[ModelRole, int]) -> Ledger:
        """A copy of the account, to report."""
        return Ledger(
            roles={
                role: LedgerRow(
                    requested=row.requested,
                    paid=row.paid,
                    cache_hits=row.cache_hits,
                    replayed=row.replayed,
                    retries=retries.get(role, 0),
                    tokens_in=row.tokens_in,
                    tokens_out=row.tokens_out,
                    tokens_cached=row.tokens_cached,
                    usd=row.usd,
                )
                for role, row in sorted(self._rows.items())
            },
            rejects=dict(sorted(self._rejects.items())),
            headroom=self.headroom,
        )

    def _price(self, role: ModelRole) -> Price:
        return self._prices.get(role, Price(known=False))
