"""Outcomes: what the gateway counts of each exchange. Single ones in a capped stream, sums beside it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence

from msgspec.structs import replace

from registry import tallies
from registry.errors import Corrupt
from registry.records import Arm, Deployment, ErasureReport, Outcome, Sample, Tally
from registry.samples import SampleStore
from registry.snapshot import FOREIGN
from registry.store import DAY, decode, encode, stream_field, text_of

_PAGE = 1000
_LATE = 600.0
"""Seconds that an outcome may be written after it happened and still be found by when it happened."""


class OutcomeStore(SampleStore):
    """Writes and reads outcomes; the one write path of the gateway's recorder."""

    async def record(self, samples: Sequence[Sample], outcomes: Sequence[Outcome]) -> None:
        """Write what one flush of a recorder holds. Safe to repeat: the same batch counts once."""
        domains: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            domains[outcome.domain].append(outcome)
        for domain, group in domains.items():
            for start in range(0, len(group), _PAGE):
                await self._record_outcomes(domain, group[start : start + _PAGE])
        if samples:
            await self.record_samples(await self._with_experiments(samples))

    async def _with_experiments(self, samples: Sequence[Sample]) -> list[Sample]:
        experiments: dict[str, str] = {}
        told = []
        for sample in samples:
            if not sample.experiment and sample.arm in ("canary", "control"):
                if sample.domain not in experiments:
                    experiments[sample.domain] = await self._experiment(sample.domain)
                told.append(replace(sample, experiment=experiments[sample.domain]))
            else:
                told.append(sample)
        return told

    async def _experiment(self, domain: str) -> str:
        raw = await self._redis.command("HGET", self._keys.live(domain), "deployment")
        return decode(Deployment, raw, f"The deployment of {domain}").experiment if raw else ""

    async def _record_outcomes(self, domain: str, group: list[Outcome]) -> None:
        running: str | None = None
        args: list[str | bytes] = []
        digest = hashlib.blake2b(digest_size=12)
        for outcome in group:
            told = outcome
            digest.update(encode(outcome))
            if not outcome.experiment and outcome.arm in ("canary", "control"):
                running = await self._experiment(domain) if running is None else running
                told = replace(outcome, experiment=running)
            args += [
                encode(told),
                tallies.total_name(told.version, told.arm),
                tallies.group_name(told.experiment, told.version, told.arm),
                told.unit,
                tallies.of_outcome(told),
            ]
        keys = (
            self._keys.batch(domain, digest.hexdigest()),
            self._keys.outcomes(domain),
            self._keys.totals(domain),
            self._keys.unit_groups(domain),
        )
        head = (
            3600,
            repr(self._clock()),
            self._keep.outcomes,
            self._keep.units_per_arm,
            self._keep.unit_days * int(DAY),
            self._keys.units(domain, ""),
        )
        await self._redis.run("record_outcomes", keys, (*head, *args))

    # --- reading --------------------------------------------------------------------------------------------------

    async def outcomes(
        self,
        domain: str,
        *,
        version: int | None = None,
        arm: Arm | Collection[Arm] | None = None,
        since: float | None = None,
        limit: int = 10_000,
    ) -> list[Outcome]:
        """Single outcomes, oldest first; at most the newest ``limit`` that fit, of one arm or of several. Unreadable
        ones are counted. What is older than ``since`` is not read: the reading stops at the first page of it.
        """
        arms: Collection[str] | None = (arm,) if isinstance(arm, str) else arm
        found: list[Outcome] = []
        end = "+"
        while len(found) < limit:
            page = await self._redis.command("XREVRANGE", self._keys.outcomes(domain), end, "-", "COUNT", _PAGE)
            if not page:
                break
            newest = float("-inf")
            for _, fields in page:
                try:
                    outcome = decode(Outcome, stream_field(fields, b"o"), "An outcome")
                except Corrupt:
                    self._refuse("outcome")
                    continue
                newest = max(newest, outcome.at)
                if version is not None and outcome.version != version:
                    continue
                if (arms is None or outcome.arm in arms) and (since is None or outcome.at >= since):
                    found.append(outcome)
            if since is not None and float("-inf") < newest < since - _LATE:
                break
            end = f"({page[-1][0].decode()}"
        return found[:limit][::-1]

    async def outcome_totals(self, domain: str) -> list[Tally]:
        """Sums per version and arm, since the domain exists."""
        raw = await self._redis.command("HGETALL", self._keys.totals(domain))
        return sorted(
            self._tallies([(text_of(name), packed, "") for name, packed in raw.items()]),
            key=lambda tally: (tally.version or 0, tally.arm),
        )

    async def unit_scores(
        self, domain: str, *, experiment: str | None = None, arm: Arm | None = None, version: int | None = None
    ) -> list[Tally]:
        """Sums per unit, of the groups that match: what per-user statistics are computed from.

        The tally of unit ``""`` is the rest, of units beyond the cap; leave it out of per-unit statistics.
        """
        tallied: list[Tally] = []
        for raw_group in await self._redis.command("ZRANGE", self._keys.unit_groups(domain), 0, -1):
            group = text_of(raw_group)
            if group.count("|") < 2:
                self._refuse("tally")
                continue
            of, number, of_arm = group.rsplit("|", 2)
            if experiment is not None and of != experiment:
                continue
            if arm is not None and of_arm != arm:
                continue
            if version is not None and number != str(version):
                continue
            [raw] = await self._redis.many([("HGETALL", self._keys.units(domain, group))], wrong_type=FOREIGN)
            tallied += self._tallies([(group, packed, text_of(unit)) for unit, packed in raw.items()])
        return tallied

    def _tallies(self, raw: list[tuple[str, bytes, str]]) -> list[Tally]:
        found = []
        for name, packed, unit in raw:
            try:
                found.append(tallies.read_tally(name, packed, unit))
            except Corrupt:
                self._refuse("tally")
        return found

    # --- counters of the limits -----------------------------------------------------------------------------------

    async def add_usage(
        self, deltas: dict[str, dict[str, float]], window: str, ttl: float
    ) -> dict[str, dict[str, float]]:
        """Add to the fleet's counters of some keys (or budgets) in a window, and get their totals.

        ``deltas``: name -> field -> amount, e.g. ``{"k12ab": {"requests": 3, "tokens": 900}}``; ``window`` names the
        minute or day; the counters live ``ttl`` seconds. One round trip. Not idempotent: a lost answer may count twice.
        """
        commands: list[tuple[str | int | bytes | float, ...]] = []
        for name, fields in deltas.items():
            key = self._keys.usage(name, window)
            commands += [("HINCRBYFLOAT", key, field, repr(float(amount))) for field, amount in fields.items()]
            commands += [("EXPIRE", key, int(ttl) + 1), ("HGETALL", key)]
        answers = iter(await self._redis.many(commands))
        totals: dict[str, dict[str, float]] = {}
        for name, fields in deltas.items():
            for _ in range(len(fields) + 1):
                next(answers)
            totals[name] = self._amounts(next(answers))
        return totals

    def _amounts(self, raw: dict[bytes, bytes]) -> dict[str, float]:
        amounts = {}
        for field, text in raw.items():
            try:
                amounts[text_of(field)] = float(text)
            except ValueError:
                self._refuse("usage")
        return amounts

    # --- the right to be forgotten --------------------------------------------------------------------------------

    async def erase(self, key: str | None, unit: str | None) -> ErasureReport:
        """Remove what a key's caller, or one of its units, left behind. See ``erasure.py``."""
        from registry.erasure import erase

        return await erase(self, key, unit)
