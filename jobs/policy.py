"""What a version may do by itself, and what waits for a person: pure rules over numbers that are handed in.

A domain's ``promotion`` says how far automation may go: ``manual`` (default) nowhere, ``canary`` into the first
canary stage, ``auto`` all the way. Whatever it says, a person decides about

* the first promotion of a domain;
* a version that rewrites more than 30 % of the incumbent's text;
* a judge that is not calibrated (kappa >= .6, its lower bound >= .4, 30 labels) where scores come from a judge and
  not from references;
* tasks whose units are only fallback hashes, or that one key speaks for;
* any promotion after so many automatic ones in a row (``freeze_after``), so that drift cannot add up unseen;
* a promotion whose prompt-cache cost is above the operator's limit.

And nothing but PASS starts anything.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from registry import GateOutcome, MoveKind, PromotionPolicy

MAX_REWRITTEN = 0.30
KAPPA, KAPPA_LOW, LABELS = 0.6, 0.4, 30
"""What makes a judge calibrated. The floor on labels is needed because kappa's own error vanishes on a few perfect
pairs.
"""

AUTOMATIC = "jobs"
"""The actor's name in the audit for every move this package makes by itself."""

Step = Literal["nothing", "ask", "canary"]


class CacheCost(msgspec.Struct, frozen=True):
    """What a promotion costs once in lost prompt caches: every live conversation pays its cached prefix again.

    ``tokens`` = conversations x cached prefix tokens; ``usd`` = tokens x (input price - cached price).
    """

    conversations: int = 0
    prefix_tokens: int = 0
    tokens: int = 0
    usd: float = 0.0


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known about a version that wants to move."""

    outcome: GateOutcome
    policy: PromotionPolicy
    incumbent_text: str
    challenger_text: str
    promotions: int
    """Promotions in the domain's audit, by anybody; version 1 made stable by the settings is none."""
    automatic_in_a_row: int = 0
    freeze_after: int = 5
    judged: bool = False
    """True when any task's scores come from a judge model and not from people's references."""
    judge_calibrated: bool = False
    fallback_units: bool = False
    one_loud_key: bool = False
    canary_by_person: bool = False
    """A person started (or approved) the canary that now wants to finish, with every reason before their eyes."""
    cache_cost: CacheCost = CacheCost()
    cache_cost_limit_usd: float | None = None


class Verdict(msgspec.Struct, frozen=True):
    """What happens next, and every reason for it in plain words."""

    step: Step
    reasons: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        return "; ".join(self.reasons)


def decide(case: Case) -> Verdict:
    """After the gate: nothing, ask a person, or go on canary in its first stage."""
    if case.outcome != "PASS":
        return Verdict("nothing", (f"the gate said {case.outcome}",))
    reasons = needs_a_person(case)
    if reasons:
        return Verdict("ask", reasons)
    return Verdict("canary", (f"the domain's policy is {case.policy} and nothing asks for a person",))


def may_finish(case: Case) -> Verdict:
    """After the canary's final test: may the canary become stable without a person?

    Where the policy is ``auto``, the person who started the canary has answered already.
    """
    if case.policy == "auto" and case.canary_by_person:
        return Verdict("canary", ("a person started this canary and the domain's policy is auto",))
    reasons = needs_a_person(case)
    if case.policy == "canary":
        reasons = ("the domain's policy lets automation start a canary, not end it with a promotion", *reasons)
    return Verdict("ask", reasons) if reasons else Verdict("canary", ("the domain's policy is auto",))


def needs_a_person(case: Case) -> tuple[str, ...]:
    """Every reason for which a person must decide; empty when none does."""
    rewritten = rewritten_share(case.incumbent_text, case.challenger_text)
    cost, limit = case.cache_cost, case.cache_cost_limit_usd
    rules = (
        (case.policy == "manual", "the domain's policy is manual"),
        (case.promotions == 0, "it would be the first promotion of this domain"),
        (rewritten > MAX_REWRITTEN, f"{rewritten:.0%} of the text is rewritten (limit {MAX_REWRITTEN:.0%})"),
        (case.judged and not case.judge_calibrated, "the judge is not calibrated against people's labels"),
        (case.fallback_units, "end users are known only by a fallback hash, so distinct people cannot be counted"),
        (case.one_loud_key, "nearly all examples come from one key"),
        (
            case.automatic_in_a_row >= case.freeze_after,
            f"{case.automatic_in_a_row} promotions in a row were automatic (a person looks after {case.freeze_after})",
        ),
        (
            limit is not None and cost.usd > limit,
            f"{cost.conversations} live conversations would pay {cost.tokens} cached tokens again, {cost.usd:.2f} USD"
            + (f" (limit {limit:.2f})" if limit is not None else ""),
        ),
    )
    return tuple(reason for applies, reason in rules if applies)


def rewritten_share(before: str, after: str) -> float:
    """How much of the text is new or gone: 1 - 2 M / T over words, M matched and T all words of both (Ratcliff-
    Obershelp).
    """
    old, new = _words(before), _words(after)
    if not old and not new:
        return 0.0
    return 1.0 - difflib.SequenceMatcher(a=old, b=new, autojunk=False).ratio()


def _words(text: str) -> Sequence[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def cache_cost(
    conversations: int, prefix_tokens: int, price_in: float | None, cached_discount: float = 0.9
) -> CacheCost:
    """``price_in`` in USD per million tokens (None: unknown, money is 0 but tokens are counted); a cached token costs
    ``1 - cached_discount`` of a fresh one, so a lost one costs ``cached_discount`` of its price again."""
    tokens = conversations * prefix_tokens
    return CacheCost(conversations, prefix_tokens, tokens, tokens * (price_in or 0.0) * cached_discount / 1e6)


def automatic_in_a_row(moves: Sequence[tuple[MoveKind | str, str]]) -> int:
    """Promotions by automation since a person last moved or approved anything. ``moves``: (kind, actor), newest
    first.
    """
    count = 0
    for kind, actor in moves:
        if actor != AUTOMATIC:
            break
        count += kind == "promote"
    return count


def calibrated(kappa: float | None, low: float | None, labels: int) -> bool:
    """Whether a judge agrees with people well enough to act on its own."""
    return kappa is not None and low is not None and kappa >= KAPPA and low >= KAPPA_LOW and labels >= LABELS
