"""Which version a request gets: domain, task, unit, arm.

A :class:`Serving` is compiled from each snapshot, once, off the request path; a request holds on to the one it began
with. The arm is a pure function of (experiment, key, unit), so that every worker of every replica agrees and a unit
keeps its arm for the experiment's life: with ``u`` uniform in [0, 1), the candidate serves [0, s), the analysed
control is [1 - s, 1) (an equal share at every instant), and the rest is plain stable traffic. Arms are nested when
``s`` grows: nobody flips back.

A holdback comes first, by a draw of its own: its units keep the old prompt whatever canary begins beside it, and a
canary's shares are those of all other units. So neither disturbs the other, at any share of either.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from gateway.body import Body
from gateway.caller import ReplyHeaders
from gateway.dialects import Speech
from gateway.exchange import Exchange
from gateway.head import Head
from gateway.prompt import Merge, Prompt
from registry import GLOBAL, Arm, DomainView, MatchRule, Snapshot

UNIT_BYTES = 1024
"""Bytes of a first user message that tell conversations apart."""


class Choice(NamedTuple):
    """What one request is served: ``prompt`` is None when nothing is injected."""

    arm: Arm
    prompt: Prompt | None


NOTHING = Choice("none", None)


class Plan:
    """One domain, ready to serve: its prompts compiled, its pointers resolved to them."""

    __slots__ = (
        "_cache_above",
        "_canary",
        "_holdback",
        "_holdback_salt",
        "_holdback_share",
        "_reply_fields",
        "_salt",
        "_share",
        "_stable",
        "_usual",
        "_view",
        "fill",
        "name",
        "rules",
        "served_domain",
        "serving",
        "tasks",
        "token",
    )

    def __init__(self, view: DomainView, serving: DomainView | None, cache_above: int | None = None) -> None:
        domain = view.domain
        self.serving = serving
        self._view = view
        self._cache_above = cache_above
        self.name = domain.name
        self.tasks = frozenset(domain.tasks)
        self.rules = domain.match
        self.fill = domain.inject == "fill"
        self.served_domain = ""
        self._reply_fields: dict[tuple[Arm, int | None], ReplyHeaders] = {}
        self._stable: Prompt | None = None
        self._usual = NOTHING
        """What is served outside of every experiment."""
        self._canary: Prompt | None = None
        self._holdback: Prompt | None = None
        self._share = self._holdback_share = 0.0
        self._salt = self._holdback_salt = b""
        if serving is None or domain.inject == "off":
            return
        pointers = serving.deployment
        merge: Merge = "prepend" if domain.inject == "fill" else domain.inject

        def compiled(number: int | None) -> Prompt | None:
            version = serving.versions.get(number) if number is not None else None
            if version is None:
                return None
            return Prompt(version.number, domain.locked, version.system_prompt, merge, cache_above)

        self.served_domain = serving.domain.name
        self._stable = compiled(pointers.stable)
        self._usual = NOTHING if self._stable is None else Choice("stable", self._stable)
        self._canary = compiled(pointers.canary)
        self._holdback = compiled(pointers.holdback)
        if self._canary is not None and self._stable is not None:
            self._share = min(pointers.share, 0.5)
            self._salt = (pointers.experiment or f"{self.served_domain}/{pointers.canary}").encode()
        if self._holdback is not None:
            self._holdback_share = pointers.holdback_share
            self._holdback_salt = f"holdback/{self.served_domain}/{pointers.holdback}".encode()

    def still(self, view: DomainView, cache_above: int | None) -> bool:
        """Made of this very object: what did not change, a new snapshot shares with the one before."""
        return self._view is view and self._cache_above == cache_above

    def choose(self, key: str, unit: str) -> Choice:
        """The arm of this unit. A unit that is not known (empty) is served stable, outside of every experiment."""
        if self._stable is None:
            return NOTHING
        if unit:
            if self._holdback_share and fraction(self._holdback_salt, key, unit) < self._holdback_share:
                return Choice("holdback", self._holdback)
            if self._share:
                u = fraction(self._salt, key, unit)
                if u < self._share:
                    return Choice("canary", self._canary)
                if u >= 1.0 - self._share:
                    return Choice("control", self._stable)
        return self._usual

    def reply_fields(self, arm: Arm, version: int | None) -> ReplyHeaders:
        """What a reply says of what served it."""
        fields = self._reply_fields.get((arm, version))
        if fields is None:
            domain = self.name if version is None else self.served_domain
            fields = self._reply_fields[arm, version] = served_by(domain, arm, version)
        return fields


def served_by(domain: str, arm: Arm, version: int | None) -> ReplyHeaders:
    """The header fields that name a domain, a version and an arm."""
    fields = [(b"x-metaspo-domain", domain.encode("latin-1", "replace"))] if domain else []
    if version is not None:
        fields.append((b"x-metaspo-version", b"%d" % version))
    fields.append((b"x-metaspo-arm", arm.encode()))
    return fields


NO_PLAN = served_by("", "none", None)


def fraction(salt: bytes, key: str, unit: str) -> float:
    """Uniform in [0, 1): the first 8 bytes of SHA-256(salt | key | unit)."""
    digest = hashlib.sha256(b"%b|%b|%b" % (salt, key.encode(), unit.encode("utf-8", "surrogatepass"))).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


class Serving:
    """A snapshot, compiled. Immutable: a new snapshot makes a new one, and requests in flight keep theirs.

    ``cache_above``: prompts of more characters ask Anthropic to cache them; None: none does. ``before``: the one until
    now; only what changed since is compiled, so that a move costs the same in a house of ten thousand domains.
    """

    __slots__ = ("_rules", "epoch", "keys", "plans", "taken_at")

    def __init__(self, snapshot: Snapshot, cache_above: int | None = None, before: Serving | None = None) -> None:
        self.epoch = snapshot.epoch
        self.taken_at = snapshot.taken_at
        self.keys = snapshot.keys
        known = before.plans if before is not None else {}
        self.plans: dict[str, Plan] = {}
        for name, view in snapshot.domains.items():
            plan = known.get(name)
            if plan is None or not plan.still(view, cache_above):
                plan = Plan(view, _serving_view(snapshot, view), cache_above)
            elif plan.serving is not view and plan.serving is not (serving := _serving_view(snapshot, view)):
                plan = Plan(view, serving, cache_above)
            self.plans[name] = plan
        ruled = sorted(name for name, plan in self.plans.items() if plan.rules)
        self._rules: list[tuple[MatchRule, Plan]] = [
            (rule, self.plans[name]) for name in ruled for rule in self.plans[name].rules
        ]

    def resolve(self, exchange: Exchange, head: Head, speech: Speech, body: Body) -> Plan | None:
        """The request's domain and task: header, then key, then match rules, then ``global``; None when there is
        none."""
        plan = None
        task = head.task
        if head.domain is not None:
            plan = self.plans.get(head.domain)
        if plan is None and exchange.key is not None and exchange.key.domain is not None:
            plan = self.plans.get(exchange.key.domain)
        if plan is None and self._rules:
            for rule, owner in self._rules:
                if _matches(rule, exchange.model, head.headers, speech, body):
                    plan = owner
                    task = task or rule.task or ""
                    break
        if plan is None:
            plan = self.plans.get(GLOBAL)
        if plan is not None:
            exchange.domain = plan.name
            exchange.task = task
        return plan


EMPTY = Serving(Snapshot(epoch=0, taken_at=0.0))
"""What is served while nothing is known: every request passes unchanged."""


def _serving_view(snapshot: Snapshot, view: DomainView) -> DomainView | None:
    """Whose version serves a domain: its own, else its parent's (never both), else nobody's."""
    seen: set[str] = set()
    current: DomainView | None = view
    while current is not None and current.domain.name not in seen:
        if current.deployment.stable in current.versions:
            return current
        seen.add(current.domain.name)
        current = snapshot.domains.get(current.domain.parent or "")
    return None


def _matches(rule: MatchRule, model: str, headers: dict[bytes, bytes], speech: Speech, body: Body) -> bool:
    if rule.model is not None:
        prefix = rule.model[:-1] if rule.model.endswith("*") else None
        if not (model.startswith(prefix) if prefix is not None else model == rule.model):
            return False
    if rule.header is not None:
        name, value = rule.header
        if headers.get(name.lower().encode("latin-1", "replace")) != value.encode("latin-1", "replace"):
            return False
    if rule.system_prefix is not None and not speech.system_text(body).startswith(rule.system_prefix):
        return False
    return rule.model is not None or rule.header is not None or rule.system_prefix is not None


def find_unit(exchange: Exchange, head: Head, speech: Speech, body: Body) -> None:
    """Set the exchange's unit: header, else the body's user fields, else a hash of key and first user message."""
    unit = head.unit or speech.unit(body)
    if unit:
        exchange.unit = unit[:256]
        return
    first = speech.first_user_text(body)
    if first:
        key = exchange.key.id if exchange.key is not None else ""
        said = b"%b|%d|%b" % (key.encode(), len(first), bytes(first[:UNIT_BYTES]))
        exchange.unit = hashlib.blake2b(said, digest_size=12).hexdigest()
        exchange.unit_is_fallback = True
