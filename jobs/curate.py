"""Samples become tasks, tasks become frozen datasets.

``curate`` tells the story, step by step; each step drops what it must and counts it under a short reason:

1. what can be no example (tool calls, non-text, failed exchanges) and what speaks to the machinery (``suspects.py``);
2. which task: the caller's word, else the application's scaffold, else the constant runs of the message, else the
   group of like meaning that is handed in (``grouping.py``, an extra), else ``other``;
3. the user prompt with its ``{question}``, mined per task (``templates.py``);
4. near-duplicates become one item (``duplicates.py``), whose reference is what most people said, never the model's
   answer;
5. nobody alone shapes a task (``caps.py``);
6. the split is a function of the cluster's hash: 20 reflect, 30 select, 50 holdout. An item whose cluster has
   confirmed a run before confirms none again: it rotates to the other two.

Everything here is pure: the same samples give the same datasets, to the byte.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from jobs import caps, templates
from jobs.items import SPLITS, Item, Split, make_items, split_of
from jobs.suspects import suspicion
from jobs.templates import BARE, Template
from registry import Dataset, Domain, Example, JudgeSpec, Sample

OTHER = "other"
"""Where messages go that show no task: watched, never learned from."""

UNNAMED_TASKS = frozenset({"", "default", OTHER})


class Sizes(msgspec.Struct, frozen=True):
    """Rows of a task per split: below ``least`` a task is watched but not gated, above ``most`` rows are left for
    later.
    """

    least: tuple[int, int, int] = (20, 30, 50)
    most: tuple[int, int, int] = (40, 60, 100)


class CuratedTask(msgspec.Struct, frozen=True):
    """One task ready to be searched over, or the numbers that say why not."""

    name: str
    template: Template
    judge: JudgeSpec
    reflect: tuple[Example, ...] = ()
    select: tuple[Example, ...] = ()
    holdout: tuple[Example, ...] = ()
    dropped: dict[str, int] = {}
    units: int = 0
    fallback_share: float = 0.0
    """The share of items whose unit is only the gateway's fallback hash."""
    loudest_key: float = 0.0
    answer_tokens: int = 0
    """How long an answer may become, as the traffic shows it; 0 when it shows nothing."""
    referenced: float = 0.0
    """The share of items with a reference from people."""

    def rows(self) -> tuple[int, int, int]:
        return len(self.reflect), len(self.select), len(self.holdout)

    def short_of(self, sizes: Sizes) -> str:
        """Empty when large enough to be gated, else what is missing, for people."""
        lacking = [
            f"{have} of {need} {split}"
            for split, have, need in zip(SPLITS, self.rows(), sizes.least, strict=True)
            if have < need
        ]
        return ", ".join(lacking)


class Curation(msgspec.Struct, frozen=True):
    """All tasks of a domain, and how many samples were left out for which reason before a task was known."""

    tasks: tuple[CuratedTask, ...] = ()
    dropped: dict[str, int] = {}
    samples: int = 0
    notes: dict[str, str] = {}
    """Tasks (or ``other``) that could not be told apart, with the reason."""

    def task(self, name: str) -> CuratedTask | None:
        return next((t for t in self.tasks if t.name == name), None)

    def all_dropped(self) -> dict[str, int]:
        total = Counter(self.dropped)
        for task in self.tasks:
            total.update(task.dropped)
        return dict(sorted(total.items()))


def curate(
    domain: Domain,
    samples: Iterable[Sample],
    *,
    spent: frozenset[str] = frozenset(),
    sizes: Sizes | None = None,
    groups: Mapping[str, str] | None = None,
) -> Curation:
    """Make the tasks of a domain from its samples.

    ``spent`` holds the hashes of clusters that have confirmed a run before; ``groups`` names the task of samples (by
    id) that show none themselves. Samples of other domains are ignored.
    """
    sizes = sizes or Sizes()
    ours = sorted((s for s in samples if s.domain == domain.name), key=lambda s: (s.at, s.id))
    dropped: Counter[str] = Counter()
    usable = []
    for sample in ours:
        reason = unusable(sample)
        if reason:
            dropped[reason] += 1
        else:
            usable.append(sample)
    by_task = assign_tasks(usable, groups)
    if OTHER in by_task:
        dropped["no_task"] += len(by_task.pop(OTHER))
    tasks = tuple(curate_task(domain, name, group, spent, sizes) for name, group in sorted(by_task.items()))
    return Curation(tasks=tasks, dropped=dict(dropped), samples=len(ours))


def unusable(sample: Sample) -> str:
    """Why no example can be made of this sample; empty when one can."""
    if sample.skipped:
        return sample.skipped
    if sample.status >= 400:
        return "failed"
    if sample.finish in {"tool_calls", "function_call", "tool_use"}:
        return "tool_call"
    if not sample.messages or sample.messages[-1].role != "user" or not sample.messages[-1].content.strip():
        return "no_question"
    texts = [m.content for m in sample.messages if m.role == "user"]
    if sample.reference:
        texts.append(sample.reference)
    return "suspect" if any(suspicion(t) for t in texts) else ""


def without_task(domain: Domain, samples: Iterable[Sample]) -> list[Sample]:
    """The usable samples of a domain that neither caller, scaffold nor constant runs give a task."""
    ours = sorted((s for s in samples if s.domain == domain.name), key=lambda s: (s.at, s.id))
    return assign_tasks([s for s in ours if not unusable(s)]).get(OTHER, [])


def assign_tasks(samples: Sequence[Sample], groups: Mapping[str, str] | None = None) -> dict[str, list[Sample]]:
    """By metadata, else by scaffold, else by the constant runs of the last message, else by group, else ``other``."""
    by_task: dict[str, list[Sample]] = defaultdict(list)
    unnamed = []
    for sample in samples:
        if sample.task not in UNNAMED_TASKS:
            by_task[sample.task].append(sample)
        elif sample.scaffold:
            by_task[f"app-{sample.scaffold.removeprefix('sha256:')[:10]}"].append(sample)
        else:
            unnamed.append(sample)
    runs = templates.group_by_runs([s.messages[-1].content for s in unnamed])
    for position, sample in enumerate(unnamed):
        by_task[runs.get(position) or (groups or {}).get(sample.id, OTHER)].append(sample)
    return dict(by_task)


def curate_task(
    domain: Domain, name: str, samples: Sequence[Sample], spent: frozenset[str], sizes: Sizes
) -> CuratedTask:
    """One task: template, items, caps, splits."""
    configured = domain.tasks.get(name)
    template = find_template([s.messages[-1].content for s in samples], configured.user_prompt if configured else None)
    dropped: Counter[str] = Counter()
    asked = []
    for sample in samples:
        question = template.question(sample.messages[-1].content)
        if question is None:
            dropped["off_template"] += 1
        else:
            asked.append((sample, question))
    everything = make_items(asked)
    fair = caps.cap_keys(caps.cap_units(everything))
    if len(fair) < len(everything):
        dropped["capped"] += len(everything) - len(fair)
    splits: dict[Split, list[Item]] = {split: [] for split in SPLITS}
    for item in fair:
        split = split_of(item, spent)
        if split is None:
            dropped["only_failures"] += 1
        else:
            splits[split].append(item)
    chosen: dict[Split, tuple[Example, ...]] = {}
    for split, most in zip(SPLITS, sizes.most, strict=True):
        ordered = sorted(splits[split], key=lambda i: (not i.answers, i.cluster))
        dropped["over_size"] += max(0, len(ordered) - most)
        chosen[split] = tuple(_example(i) for i in ordered[:most])
    return CuratedTask(
        name=name,
        template=template,
        judge=configured.judge if configured else guess_judge(fair),
        reflect=chosen["reflect"],
        select=chosen["select"],
        holdout=chosen["holdout"],
        dropped={reason: n for reason, n in sorted(dropped.items()) if n},
        units=len({i.unit for i in fair}),
        fallback_share=sum(i.fallback for i in fair) / len(fair) if fair else 0.0,
        loudest_key=caps.loudest(fair),
        answer_tokens=room_for_answers([s for s, _ in asked]),
        referenced=sum(bool(i.answers) for i in fair) / len(fair) if fair else 0.0,
    )


def room_for_answers(samples: Sequence[Sample]) -> int:
    """Tokens that an answer needs: the longest seen when that one was cut off there, else half as much again."""
    longest = max((s.answer_tokens for s in samples), default=0)
    cut_off = any(s.finish in {"length", "max_tokens"} and s.answer_tokens == longest for s in samples)
    return longest if cut_off else math.ceil(1.5 * longest)


def find_template(messages: Sequence[str], configured: str | None) -> Template:
    """The configured user prompt when the traffic shows it, else the mined one, else the bare question."""
    if configured:
        known = templates.parse(configured)
        fitting = sum(known.question(m) is not None for m in messages)
        if fitting >= templates.AGREEMENT * len(messages):
            return known
    mined = templates.mine(messages)
    return mined if not mined.bare else BARE


def guess_judge(items: Sequence[Item]) -> JudgeSpec:
    """How to score a task nobody described: few repeated references are labels, others are compared as text.

    Labels are read leniently: nobody said that the answer's form matters.
    """
    references = Counter(a for i in items for a in i.answers)
    if not references:
        return JudgeSpec(kind="rubric")
    if len(references) <= 12 and min(references.values()) >= 3:
        return JudgeSpec(kind="choice", labels=tuple(sorted(references)), lenient=True)
    return JudgeSpec(kind="f1")


def _example(item: Item) -> Example:
    return Example(
        id=item.origin,
        question=item.question,
        answers=item.answers,
        history=item.history,
        cluster=item.cluster,
        unit=item.unit,
        weight=item.weight,
        origin=item.origin,
        key=item.key,
    )


# --- freezing --------------------------------------------------------------------------------------------------------


def freeze(domain: str, task: CuratedTask, at: float) -> dict[Split, Dataset]:
    """One dataset per split, so that the search can be given two of them without a path to the third.

    The registry names them by their content when they are put there.
    """
    rows: Mapping[Split, tuple[Example, ...]] = {
        "reflect": task.reflect,
        "select": task.select,
        "holdout": task.holdout,
    }
    return {
        split: Dataset(
            hash="",
            domain=domain,
            task=task.name,
            created_at=at,
            examples=examples,
            source=f"traffic:{split}",
        )
        for split, examples in rows.items()
        if examples
    }


def spent_clusters(datasets: Iterable[Dataset]) -> frozenset[str]:
    """The clusters that the holdout datasets of earlier, finished confirmations have used up."""
    return frozenset(e.cluster for d in datasets if d.source == "traffic:holdout" for e in d.examples)
