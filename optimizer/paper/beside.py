"""The published numbers beside the measured ones, and the same replies under the published metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean

import msgspec
import yaml

from optimizer.paper.methods import FAITHFUL, order_of
from optimizer.paper.paired import OURS, difference
from optimizer.paper.raw import RawRow
from optimizer.paper.robustness import better_share
from optimizer.paper.scales import MACRO_F1, scales_of, told
from optimizer.paper.shown import (
    Shown,
    Table,
    Value,
    label_of,
    mean_curve,
    mean_of,
    methods_of,
    over_seeds,
    over_tasks,
    unique,
)
from optimizer.paper.tables import counts_of

_FILE = Path(__file__).parent / "published.yaml"
_Line = tuple[Value, ...]


class _Generalization(msgspec.Struct, frozen=True):
    tasks: list[str]
    rows: dict[str, list[float | None]]
    means: dict[str, float]


class _Adaptation(msgspec.Struct, frozen=True):
    domains: list[str]
    rows: dict[str, list[float]]
    means: dict[str, float]
    fewer_iterations: float


class Published(msgspec.Struct, frozen=True):
    """What the paper prints, in percent. Keys of ``generalization`` are ``scope/method``; ``source_tasks`` is the gain
    from one source task to six, by domain."""

    model: str
    differs: str
    test_rows: int
    generalization: _Generalization
    adaptation: _Adaptation
    ablations: dict[str, float]
    robustness: float
    source_tasks: dict[str, float]


@cache
def published() -> Published:
    """The figures of the file beside this one."""
    return msgspec.convert(yaml.safe_load(_FILE.read_text(encoding="utf-8")), Published)


def beside_published(rows: Sequence[RawRow]) -> list[Table]:
    """Measured and published scores, part by part, wherever the paper prints a figure for what was measured."""
    figures = published()
    lines = [*_unseen(rows), *_adapted(rows), *_ablations(rows), *_robustness(rows), *_source_tasks(rows)]
    columns = (
        "part",
        "task or domain",
        "method",
        "measured",
        "same replies, published metric",
        f"published ({figures.model})",
        "what differs",
    )
    title = "Beside the published figures"
    return (
        [Table(name="beside", title=title, columns=columns, rows=tuple(lines), note=figures.differs)] if lines else []
    )


def _unseen(rows: Sequence[RawRow]) -> list[_Line]:
    """Un-optimized user prompts: task by task, and the mean where all of the paper's tasks were measured."""
    printed = published().generalization
    plain = [row for row in rows if row.role == "unseen" and row.plain]
    lines = []
    for place, task in enumerate(printed.tasks):
        for key, values in printed.rows.items():
            group = [row for row in _of(plain, key) if row.task == task]
            lines += _line("unseen", task, key, group, over_seeds(group), values[place])
    for key, mean in printed.means.items():
        group = [row for row in _of(plain, key) if row.task in printed.tasks]
        if {row.task for row in group} == set(printed.tasks):
            lines += _line("mean of the 14 tasks", "all", key, group, mean_of(group), mean)
    return lines


def _adapted(rows: Sequence[RawRow]) -> list[_Line]:
    """User prompts tuned per task: means of the domains, and how soon Default's last score is reached."""
    printed = published().adaptation
    adapted = [row for row in rows if row.role == "unseen" and row.adapted and not row.found_on]
    lines = []
    for place, domain in enumerate(printed.domains):
        for method, scores in printed.rows.items():
            group = [row for row in _of(adapted, f"domain/{method}") if row.domain == domain]
            lines += _line("adapted", domain, f"domain/{method}", group, mean_of(group), scores[place])
    for method, mean in printed.means.items():
        lines += _domains("adapted, mean of five domains", method, adapted, mean)
    for domain in unique(row.domain for row in adapted):
        start = [row for row in _of(adapted, "domain/default") if row.domain == domain]
        for method in (FAITHFUL, OURS):
            group = [row for row in _of(adapted, f"domain/{method}") if row.domain == domain]
            found = _fewer_rounds(group, start)
            if found is not None:
                differs = f"rounds of {', '.join(unique(row.task for row in group))}; no interval"
                what = (label_of(method, "domain"), found, None, printed.fewer_iterations / 100, differs)
                lines.append(("adaptation rounds saved to reach Default's last score", domain, *what))
    return lines


def _fewer_rounds(group: Sequence[RawRow], start: Sequence[RawRow]) -> Shown | str | None:
    """The share of rounds that ``group`` saves until it reaches the last score of ``start``; None where the two were
    not measured on the same tasks."""
    ours, default = mean_curve(group), mean_curve(start)
    if len(default) < 2 or not ours or {row.task for row in group} != {row.task for row in start}:
        return None
    wanted, rounds = default[-1][1], len(default) - 1
    needed = next((place for place, (_, score) in enumerate(ours) if score >= wanted), None)
    if needed is None:
        return "not reached"
    mean = mean_of(group)
    return Shown(score=1 - needed / rounds, n=mean.n, seeds=mean.seeds) if mean else None


def _ablations(rows: Sequence[RawRow]) -> list[_Line]:
    plain = [row for row in rows if row.role == "unseen" and row.plain]
    lines = []
    for method, score in published().ablations.items():
        lines += _domains("mean of five domains", method, plain, score)
    return lines


def _robustness(rows: Sequence[RawRow]) -> list[_Line]:
    """The share of user prompts that do better than under Default, for the published loop and for ours."""
    printed = published()
    plain = [row for row in rows if row.role == "unseen" and row.plain and row.user_prompt_scores]
    lines: list[_Line] = []
    for label, group in methods_of([row for row in plain if row.method in (FAITHFUL, OURS)]):
        found = better_share(group, plain)
        if found is None:
            continue
        asked = _counted(row.answers // len(row.user_prompt_scores) for row in group)
        differs = f"n counts user prompts, each on {asked} questions, {printed.test_rows} there; an equal score is not "
        differs += f"better; {_tasks(group)}"
        what = (label, found, None, printed.robustness / 100, differs)
        lines.append(("user prompts better than under Default", "all", *what))
    return lines


def _source_tasks(rows: Sequence[RawRow]) -> list[_Line]:
    """What more source tasks are worth: all of a domain less one, in points of right answers on the same questions."""
    counted = counts_of(rows)
    lines: list[_Line] = []
    for domain, gain in published().source_tasks.items():
        of_domain = [row for row in counted if row.domain == domain]
        one, every = ([row for row in of_domain if row.sources == count] for count in (1, 0))
        found = difference(every, one) if one and every else None
        if found is not None:
            learned = len({row.task for row in rows if (row.role, row.domain) == ("source", domain)})
            differs = f"ours; points from 1 to {f'all {learned}' if learned else 'all'} source tasks; there 1 to 6, "
            differs += f"in percent; {_tasks(every)}"
            lines.append(("gain by more source tasks", domain, label_of(OURS, "domain"), found, None, gain / 100,
                          differs))  # fmt: skip
    return lines


def _of(rows: Sequence[RawRow], key: str) -> list[RawRow]:
    """The rows of a method; ``key`` is ``scope/method``."""
    scope, _, method = key.partition("/")
    return [row for row in rows if (row.scope, row.method) == (scope, method)]


def _domains(part: str, method: str, rows: Sequence[RawRow], score: float) -> list[_Line]:
    """The mean over the paper's domains, where each of them was measured."""
    domains = published().adaptation.domains
    group = [row for row in _of(rows, f"domain/{method}") if row.domain in domains]
    if {row.domain for row in group} != set(domains):
        return []
    parts = [[row for row in group if row.domain == domain] for domain in domains]
    quirky = [_published(of_domain) for of_domain in parts]
    shown = (over_tasks(map(mean_of, parts)), _plain(over_tasks(quirky)) if all(quirky) else None)
    return [(part, "all", label_of(method, "domain"), *shown, score / 100, _differs(group))]


def _line(
    part: str, what: str, key: str, group: Sequence[RawRow], found: Shown | None, value: float | None
) -> list[_Line]:
    """A row of the table, none where nothing was measured."""
    if found is None:
        return []
    scope, _, method = key.partition("/")
    return [
        (
            part,
            what,
            label_of(method, scope),
            found,
            _published(group),
            None if value is None else value / 100,
            _differs(group),
        )
    ]


def _published(rows: Sequence[RawRow]) -> Shown | None:
    """The score of the same replies by the published metric: over seeds, then over tasks, without an interval, as that
    metric adds classes as it goes. None unless every row has one."""
    scores = {task: [r.published_score for r in rows if r.task == task] for task in unique(r.task for r in rows)}
    known = [[score for score in of_task if score is not None] for of_task in scores.values()]
    mean = mean_of(rows)
    if mean is None or sum(map(len, known)) < len(rows):
        return None
    return Shown(score=fmean(map(fmean, known)), n=mean.n, seeds=mean.seeds)


def _plain(found: Shown | None) -> Shown | None:
    """``found`` without its bounds."""
    return msgspec.structs.replace(found, low=None, high=None) if found else None


def _differs(rows: Sequence[RawRow]) -> str:
    """What sets the measured rows apart from the published ones, beyond the model: tasks, questions, metric."""
    said = [f"{_counted(row.n for row in rows)} questions a task"]
    if not rows[0].adapted:
        prompts = [row.answers / row.n for row in rows if row.answers]
        said[0] += (
            f", each under {_counted(round(share, 1) for share in prompts)} of the user prompts" if prompts else ""
        )
    if len({row.domain for row in rows}) > 1 or rows[0].adapted:
        said.append(_tasks(rows))
    if MACRO_F1 in scales_of(rows):
        said.append("measured: macro-F1 over the fixed labels")
    return "; ".join(said)


def _counted(numbers: Iterable[float]) -> str:
    """``6``, or ``6 to 10`` where they differ."""
    return " to ".join(f"{number:g}" for number in sorted({min(some), max(some)})) if (some := [*numbers]) else "no"


def _tasks(rows: Sequence[RawRow]) -> str:
    """Which of the paper's tasks the rows are of."""
    return f"on {', '.join(unique(row.task for row in rows))}"


def as_published(rows: Sequence[RawRow]) -> list[Table]:
    """The same replies by the published metrics: letters picked out of prose, replies without tags wrong."""
    chosen = [row for row in rows if row.published_score is not None and row.plain]
    lines: list[_Line] = []
    tasks = unique(row.task for row in chosen)
    for method, scope in sorted({(r.method, r.scope) for r in chosen}, key=lambda key: order_of(*key)):
        for task in tasks:
            group = [row for row in chosen if (row.method, row.scope, row.task) == (method, scope, task)]
            right, shown = over_seeds(group), _published(group)
            if right is None or shown is None:
                continue
            malformed = fmean(row.malformed for row in group)
            untagged = [row.untagged for row in group if row.untagged is not None]
            bare = fmean(untagged) if len(untagged) == len(group) else None
            difference_of = shown.score - right.score
            lines.append((task, label_of(method, scope), right, shown, difference_of, malformed, bare))
    columns = ("task", "method", "right by default", "as published", "difference", "malformed", "without tags")
    note = (
        f"The same replies under both metrics. {told(chosen)} Without answer tags a reply is read whole here, and is "
        "malformed only where no answer can be read from it; by the published metrics it is wrong (passage questions "
        "aside, which are read whole), and for macro-F1 all such replies are one more class with F1 0, as is each "
        "tagged answer that is no label. So a score can fall where nothing is malformed. No interval is given for a "
        "metric that adds classes as it goes. A dash: replies without tags were not counted."
    )
    title = "As published: what the published metrics make of the same replies"
    return [Table(name="as_published", title=title, columns=columns, rows=tuple(lines), note=note)] if lines else []
