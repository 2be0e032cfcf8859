"""Samples: scrubbed exchanges kept for learning, in two capped reservoirs per task, with scores and late references."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

from msgspec.structs import replace

from registry import tallies
from registry.errors import Conflict, Corrupt, NotFound, Refused
from registry.records import Feedback, Sample
from registry.reservoirs import inclusion, priority
from registry.store import DAY, Store, decode, encode, text_of

Which = Literal["representative", "failures"]
_PAGE = 500
FAILURE_BELOW = 0.5
"""A score or vote below this also offers the sample to the failure reservoir."""


class SampleStore(Store):
    """Writes and reads samples."""

    async def record_samples(self, samples: Sequence[Sample]) -> list[str]:
        """Offer samples to their reservoirs; returns the ids that were kept. Writing one twice is writing it once."""
        groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
        for sample in samples:
            groups[sample.domain, sample.task].append(sample)
        kept: list[str] = []
        for (domain, task), group in groups.items():
            for start in range(0, len(group), _PAGE):
                kept += await self._record_group(domain, task, group[start : start + _PAGE])
        return kept

    async def _record_group(self, domain: str, task: str, group: list[Sample]) -> list[str]:
        votes = await self._votes(domain, [sample.id for sample in group])
        args: list[str | bytes | float] = []
        for sample in group:
            joined = _joined(sample, votes[sample.id])
            args += self._offered(joined, encode(joined))
        kept = [text_of(name) for name in await self._offer(domain, task, args)]
        ttl = self._keep.sample_days * int(DAY)
        await self._redis.many([("SET", self._keys.locator(name), domain, "EX", ttl) for name in kept])
        # A vote that came while we wrote saw no sample, so we look once more; and when this is the second try of a
        # write whose answer was lost, what is stored is the first try's, without the votes that we have just read.
        late = await self._votes(domain, kept)
        for name, vote in late.items():
            if vote is not None:
                await self._join(domain, name, vote)
        return kept

    def _offered(self, sample: Sample, body: bytes, which: Which | None = None) -> list[str | bytes | float]:
        rank = priority(sample.id, sample.at, self._keep.half_life_days)
        return [sample.id, repr(sample.at), which or sample.reservoir, repr(rank), body]

    async def _offer(self, domain: str, task: str, args: Sequence[str | bytes | float]) -> list[bytes]:
        keys = (
            self._keys.times(domain, task),
            self._keys.reservoir(domain, "representative", task),
            self._keys.reservoir(domain, "failures", task),
            self._keys.threshold(domain),
            self._keys.tasks(domain),
        )
        head = (
            repr(self._clock()),
            self._keep.sample_days * int(DAY),
            self._keep.samples_per_task,
            self._keep.failures_per_task,
            task,
            self._keys.sample(domain, ""),
            self._keep.tasks,
        )
        found: list[bytes] = await self._redis.run("record_samples", keys, (*head, *args))
        return found

    async def _votes(self, domain: str, ids: Sequence[str]) -> dict[str, Feedback | None]:
        raw = await self._redis.many([("GET", self._keys.vote(domain, name)) for name in ids], wrong_type=b"foreign")
        return {name: self._vote(name, text) for name, text in zip(ids, raw, strict=True)}

    def _vote(self, name: str, raw: bytes | None) -> Feedback | None:
        """A stored vote; one that cannot be read is counted, and is as if it had never come."""
        if not raw:
            return None
        try:
            return decode(Feedback, raw, f"The vote on {name}")
        except Corrupt:
            self._refuse("vote")
            return None

    # --- reading --------------------------------------------------------------------------------------------------

    async def task_names(self, domain: str) -> list[str]:
        """Tasks that have samples, the most recently seen first."""
        return [text_of(name) for name in await self._redis.command("ZREVRANGE", self._keys.tasks(domain), 0, -1)]

    async def samples(
        self,
        domain: str,
        *,
        task: str | None = None,
        limit: int = 1000,
        reservoir: Which | None = None,
        since: float | None = None,
        unscored_only: bool = False,
        version: int | None = None,
    ) -> list[Sample]:
        """Samples, newest first. ``inclusion`` is the gateway's share times the reservoir's: weights for unbiased
        means.

        Unreadable ones are left out and counted.
        """
        tasks = [task] if task is not None else await self.task_names(domain)
        now = self._clock()
        oldest = max(since or 0.0, now - self._keep.sample_days * DAY)
        found: list[tuple[float, str]] = []
        for name in tasks:
            wanted = ("ZREVRANGEBYSCORE", self._keys.times(domain, name), "+inf", repr(oldest), "WITHSCORES")
            times = (await self._redis.many([wanted], wrong_type=()))[0]
            pairs = [(float(at), text_of(sample_id)) for sample_id, at in _pairs(times)]
            if reservoir is not None:
                members = await self._redis.command("ZRANGE", self._keys.reservoir(domain, reservoir, name), 0, -1)
                inside = {text_of(member) for member in members}
                pairs = [pair for pair in pairs if pair[1] in inside]
            found += pairs
        found.sort(reverse=True)
        thresholds = await self._thresholds(domain)
        samples: list[Sample] = []
        for start in range(0, len(found), _PAGE):
            for sample in await self._bodies(domain, [name for _, name in found[start : start + _PAGE]]):
                if unscored_only and (sample.score is not None or sample.unscored):
                    continue
                if version is not None and sample.version != version:
                    continue
                samples.append(self._weighted(sample, reservoir, thresholds))
                if len(samples) == limit:
                    return samples
        return samples

    async def _thresholds(self, domain: str) -> dict[str, float]:
        raw = await self._redis.command("HGETALL", self._keys.threshold(domain))
        thresholds = {}
        for name, value in raw.items():
            try:
                thresholds[text_of(name)] = float(value)
            except ValueError:
                self._refuse("threshold")
        return thresholds

    def _weighted(self, sample: Sample, reservoir: Which | None, thresholds: dict[str, float]) -> Sample:
        which = reservoir or sample.reservoir
        share = inclusion(sample.at, thresholds.get(f"{which}:{sample.task}"), self._keep.half_life_days)
        return replace(sample, reservoir=which, inclusion=sample.inclusion * share)

    async def _bodies(self, domain: str, ids: Sequence[str]) -> list[Sample]:
        samples = []
        raw = await self._redis.many([("GET", self._keys.sample(domain, name)) for name in ids], wrong_type=b"foreign")
        for name, text in zip(ids, raw, strict=True):
            if text is None:
                continue
            try:
                sample = decode(Sample, text, f"The sample {name}")
            except Corrupt:
                self._refuse("sample")
                continue
            if (sample.id, sample.domain) == (name, domain):
                samples.append(sample)
            else:
                self._refuse("sample")
        return samples

    async def get_sample(self, sample_id: str) -> Sample:
        """Raises NotFound, Corrupt."""
        domain = await self._locate(sample_id)
        raw = await self._redis.command("GET", self._keys.sample(domain, sample_id))
        if raw is None:
            raise NotFound(f"There is no sample {sample_id!r}: it was not kept, or it has expired.")
        return decode(Sample, raw, f"The sample {sample_id}")

    async def _locate(self, sample_id: str) -> str:
        raw = await self._redis.command("GET", self._keys.locator(sample_id))
        if raw is not None:
            return text_of(raw)
        # The writer may have died between sample and locator: look everywhere, then remember.
        names: list[str] = [text_of(name) for name in await self._redis.command("SMEMBERS", self._keys.domains)]
        for start in range(0, len(names), _PAGE):
            part = names[start : start + _PAGE]
            there = await self._redis.many([("EXISTS", self._keys.sample(name, sample_id)) for name in part])
            for name, exists in zip(part, there, strict=True):
                if exists:
                    ttl = self._keep.sample_days * int(DAY)
                    await self._redis.command("SET", self._keys.locator(sample_id), name, "EX", ttl)
                    return name
        raise NotFound(f"There is no sample {sample_id!r}: it was not kept, or it has expired.")

    # --- what comes later -----------------------------------------------------------------------------------------

    async def set_score(self, sample_id: str, score: float | None, by: str, unscored: str = "") -> Sample:
        """A judge's verdict, or why there is none; replaces an earlier one, sums too. Raises NotFound, Refused."""
        _check_score(score)

        def change(sample: Sample) -> Sample:
            return replace(sample, score=score, score_by=by, unscored="" if score is not None else unscored)

        before, after = await self._change(await self._locate(sample_id), sample_id, change)
        if score is not None and score < FAILURE_BELOW:
            await self._offer_failure(after)
        return after if before != after else before

    async def label_sample(self, sample_id: str, score: float, by: str) -> Sample:
        """A person's verdict, kept beside the judge's. Raises NotFound, Refused."""
        _check_score(score)
        _, after = await self._change(
            await self._locate(sample_id), sample_id, lambda sample: replace(sample, label=score, label_by=by)
        )
        return after

    async def add_feedback(self, feedback: Feedback) -> bool:
        """A caller's vote or late reference; a second one replaces the first. True when its exchange was kept."""
        _check_score(feedback.score)
        key = self._keys.vote(feedback.domain, feedback.exchange)
        ttl = self._keep.sample_days * int(DAY)
        for _ in range(20):
            raw = await self._redis.command("GET", key)
            old = self._vote(feedback.exchange, raw)
            new = feedback
            if old is not None:  # what the second does not say, the first still says
                new = replace(
                    feedback,
                    score=old.score if feedback.score is None else feedback.score,
                    reference=old.reference if feedback.reference is None else feedback.reference,
                    comment=feedback.comment or old.comment,
                )
            delta = tallies.of_vote(old.score if old else None, new.score)
            names = (
                tallies.total_name(new.version, new.arm),
                tallies.group_name(new.experiment, new.version, new.arm),
                new.unit,
                delta,
            )
            if await self._swap(feedback.domain, key, raw or b"", encode(new), ttl, names):
                return await self._join(feedback.domain, feedback.exchange, new)
        raise Conflict(f"The vote on {feedback.exchange} keeps changing: send it again.")

    async def _join(self, domain: str, sample_id: str, vote: Feedback) -> bool:
        try:
            before, after = await self._change(domain, sample_id, lambda sample: _joined(sample, vote))
        except NotFound:
            return False
        if vote.score is not None and vote.score < FAILURE_BELOW and before != after:
            await self._offer_failure(after)
        return True

    async def _offer_failure(self, sample: Sample) -> None:
        if sample.reservoir != "failures":
            await self._offer(sample.domain, sample.task, self._offered(sample, b"", "failures"))

    async def _change(self, domain: str, sample_id: str, change: Callable[[Sample], Sample]) -> tuple[Sample, Sample]:
        """Read, change, write if nobody else wrote in between; the sums follow the score."""
        key = self._keys.sample(domain, sample_id)
        for _ in range(20):
            raw = await self._redis.command("GET", key)
            if raw is None:
                raise NotFound(f"There is no sample {sample_id!r}: it was not kept, or it has expired.")
            before = decode(Sample, raw, f"The sample {sample_id}")
            after = change(before)
            if before == after:
                return before, after
            names = None
            if before.score != after.score:
                names = (
                    tallies.total_name(before.version, before.arm),
                    tallies.group_name(before.experiment, before.version, before.arm),
                    before.unit,
                    tallies.of_score(before.score, after.score),
                )
            if await self._swap(domain, key, raw, encode(after), None, names):
                return before, after
        raise Conflict(f"The sample {sample_id} keeps changing: try again.")

    async def _swap(
        self, domain: str, key: str, seen: bytes, new: bytes, ttl: int | None, names: tuple[str, str, str, bytes] | None
    ) -> bool:
        keys = (key, self._keys.totals(domain), self._keys.unit_groups(domain))
        args = (
            seen,
            new,
            "" if ttl is None else ttl,
            repr(self._clock()),
            self._keep.units_per_arm,
            self._keep.unit_days * int(DAY),
            self._keys.units(domain, ""),
        )
        answer = await self._redis.run("swap", keys, (*args, *(names or ())))
        return bool(answer[0] == b"swapped")


def _joined(sample: Sample, vote: Feedback | None) -> Sample:
    if vote is None or vote.key != sample.key:
        return sample
    return replace(
        sample,
        feedback=sample.feedback if vote.score is None else vote.score,
        reference=sample.reference if vote.reference is None else vote.reference,
        comment=vote.comment or sample.comment,
    )


def _check_score(score: float | None) -> None:
    if score is not None and not 0 <= score <= 1:
        raise Refused(f"A score lies in 0..1; {score!r} does not.")


def _pairs(flat: Sequence[object]) -> list[tuple[bytes, float]]:
    if flat and isinstance(flat[0], tuple | list):
        return [(pair[0], pair[1]) for pair in flat]  # type: ignore[index]
    return list(zip(flat[::2], flat[1::2], strict=True))  # type: ignore[arg-type]
