"""Tasks of messages that show none: groups of like meaning, found by their embeddings (an extra, off by default).

Last resort of ``curate.py``, after the caller's word, the scaffold and constant runs. A group is frozen when it is
found: its centre and how near its members lie to it. From then on a message belongs to the group whose centre it is
near enough to, so that a task keeps its name while traffic goes on; what is near none is ``other`` and only watched.
HDBSCAN (Campello, Moulavi and Sander 2013; scikit-learn's) finds groups of any number and shape and leaves noise out,
so no number of tasks has to be guessed.

A group of traffic has a lower bar than a name that somebody gave: at least 50 distinct messages of 5 users, three at
most of each user while it is being found.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import numpy as np

from jobs import embedding
from jobs.duplicates import text_hash
from jobs.embedding import Vectors
from jobs.errors import NoWork
from jobs.suspects import suspicion
from jobs.work import Work
from registry import Domain, Sample, TaskGroup, TaskGroups

LEAST_MESSAGES = 50
LEAST_USERS = 5
PER_USER = 3
"""Messages of one user that take part in finding groups."""
MOST = 5_000
"""Newest messages that take part in finding groups: the work grows with their square."""
NEAR = 0.05
"""A group's edge: this share of its members lies farther from the centre."""
TERM_SHARE = 0.3
_WORD = re.compile(r"\b[a-z]{3,16}\b")
MISSING = (
    "jobs.embedding_model is set, but scikit-learn is not there: run `pip install 'metaspo-gateway[embeddings]'`"
    " (or `pip install --require-hashes -r requirements/embeddings.txt`), or leave the setting out."
)


def installed() -> bool:
    return find_spec("sklearn") is not None


async def names(work: Work, domain: Domain, samples: Sequence[Sample], *, look: bool = False) -> dict[str, str]:
    """Sample id -> name of its group, of samples that show no other task; who belongs to none is absent.

    ``look``: also look for new groups, when enough messages belong to none, and keep what was learnt; only the job
    ``curate`` does, of which a domain has one at a time. Raises NoWork: the extra is not installed, the model cannot be
    used, or the day's budget is spent.
    """
    if not installed():
        raise NoWork("no_embeddings", MISSING)
    model = work.settings.jobs.embedding_model or ""
    kept = await work.registry.task_groups(domain.name)
    if kept is None or kept.model != model:  # centres of another model mean nothing
        kept = TaskGroups(domain=domain.name, model=model)
    texts = {text_hash(t): t for s in reversed(samples) if (t := _text(s))}
    new = [name for name in texts if name not in kept.named]
    named = {name: group for name, group in kept.named.items() if name in texts}
    if new:
        vectors = await embedding.embed(work, domain, [texts[name] for name in new])
        named |= dict(zip(new, belong(vectors, kept.groups), strict=True))
    groups, seen = kept.groups, kept.looked_at
    rest = [name for name, group in named.items() if not group]
    if look and len(rest) >= max(LEAST_MESSAGES, seen + LEAST_MESSAGES // 2):
        found = await _look(work, domain, samples, {name: texts[name] for name in rest}, groups)
        groups = (*groups, *(one for one, _ in found))
        for one, members in found:
            named |= dict.fromkeys(members, one.name)
        seen = sum(not group for group in named.values())
    seen = min(seen, len(rest))
    after = TaskGroups(domain=domain.name, model=model, groups=groups, named=named, looked_at=seen)
    if look and after != kept:
        await work.registry.put_task_groups(after)
    return {s.id: group for s in samples if (t := _text(s)) and (group := named.get(text_hash(t)))}


async def _look(
    work: Work, domain: Domain, samples: Sequence[Sample], rest: Mapping[str, str], known: Sequence[TaskGroup]
) -> list[tuple[TaskGroup, list[str]]]:
    """New groups among the messages ``rest`` (hash -> text), each with the hashes of its members."""
    speakers: dict[str, set[str]] = defaultdict(set)
    said: Counter[str] = Counter()
    chosen: list[str] = []
    for sample in sorted(samples, key=lambda s: (-s.at, s.id)):
        name, speaker = text_hash(_text(sample)), _speaker(sample)
        if name not in rest or speaker in speakers[name]:
            continue
        if said[speaker] < PER_USER and len(chosen) < MOST:
            said[speaker] += 1
            if not speakers[name]:
                chosen.append(name)
            speakers[name].add(speaker)
    if len(chosen) < LEAST_MESSAGES:
        return []
    vectors = await embedding.embed(work, domain, [rest[name] for name in chosen])
    labels = await asyncio.to_thread(cluster, vectors)
    least = -1.0
    if not any(label >= 0 for label in labels) and known:
        # One kind of messages, or no kind at all: with nothing to set it off against, it has to be as dense as the
        # groups that were.
        labels = await asyncio.to_thread(cluster, vectors, single=True)
        least = 0.9 * min(group.near for group in known)
    found = []
    for label in sorted(set(labels) - {-1}):
        rows = heart(vectors, [i for i, other in enumerate(labels) if other == label])
        members = [chosen[i] for i in rows]
        users = set().union(*(speakers[name] for name in members))
        if len(members) >= LEAST_MESSAGES and len(users) >= LEAST_USERS:
            group = make(vectors[rows], members, terms([(rest[n], speakers[n]) for n in members]), work.clock())
            if group.near >= least:
                found.append((group, members))
    return found


def cluster(vectors: Vectors, *, single: bool = False) -> list[int]:
    """A label per row, -1 for noise. ``single``: all of them may be one cluster."""
    from sklearn.cluster import HDBSCAN

    fitted = HDBSCAN(min_cluster_size=LEAST_MESSAGES, min_samples=5, allow_single_cluster=single, copy=True).fit(
        vectors
    )
    return [int(label) for label in fitted.labels_]


def heart(vectors: Vectors, rows: Sequence[int]) -> list[int]:
    """Those of a cluster's rows that lie no more than four (robust) standard deviations farther from its centre than
    its median row: HDBSCAN counts to a cluster whatever is nearer to it than to the others, however far away."""
    likeness = vectors[rows] @ _centre(vectors[rows])
    median = float(np.median(likeness))
    spread = 1.4826 * float(np.median(np.abs(likeness - median)))
    return [row for row, like in zip(rows, likeness, strict=True) if like >= median - 4 * spread]


def _centre(vectors: Vectors) -> Vectors:
    mean = vectors.mean(axis=0)
    unit: Vectors = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    return unit


def make(vectors: Vectors, members: Sequence[str], words: Sequence[str], at: float) -> TaskGroup:
    """Freeze a group: its centre, and how near to it all but a few of its members lie."""
    centre = _centre(vectors)
    near = float(np.quantile(vectors @ centre, NEAR))
    tail = hashlib.sha256("".join(sorted(members)).encode()).hexdigest()[:8]
    return TaskGroup(name="-".join(["group", *words, tail]), centre=centre.tobytes(), near=near, found_at=at)


def belong(vectors: Vectors, groups: Sequence[TaskGroup]) -> list[str]:
    """For each row the name of the nearest group within whose edge it lies; empty when there is none."""
    fitting = [g for g in groups if len(g.centre) == 4 * vectors.shape[1]]
    if not fitting:
        return [""] * len(vectors)
    likeness = vectors @ np.stack([np.frombuffer(g.centre, dtype=np.float32) for g in fitting]).T
    inside = np.where(likeness >= np.array([g.near for g in fitting]), likeness, -np.inf)
    best = inside.argmax(axis=1)
    return [fitting[g].name if np.isfinite(row[g]) else "" for g, row in zip(best, inside, strict=True)]


def terms(said: Sequence[tuple[str, set[str]]], most: int = 2) -> list[str]:
    """Plain words that stand in at least 30 % of the messages and were used by at least five users: for people to tell
    groups apart. Nobody alone can write them."""
    counted: Counter[str] = Counter()
    users: dict[str, set[str]] = defaultdict(set)
    for text, speakers in said:
        for word in set(_WORD.findall(text.lower())):
            counted[word] += 1
            users[word] |= speakers
    known = [
        word
        for word, n in counted.items()
        if n >= TERM_SHARE * len(said) and len(users[word]) >= LEAST_USERS and not suspicion(word)
    ]
    return sorted(known, key=lambda word: (-len(word), -counted[word], word))[:most]


def _text(sample: Sample) -> str:
    return sample.messages[-1].content if sample.messages else ""


def _speaker(sample: Sample) -> str:
    """Fallback units prove no distinct people: all of one key count as one."""
    return f"key:{sample.key}" if sample.unit_is_fallback else sample.unit
