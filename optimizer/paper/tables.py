"""Every table of the report, made from raw rows and from nothing else.

The test rows are the same for all seeds, so a mean over seeds keeps the sampling error of one seed and adds the spread
between them: half-width = sqrt(mean half-width squared + (1.96 sd of the seeds)^2 / seeds). A mean over tasks adds
squared half-widths, since tasks are the fixed set that is served.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean, variance

from optimizer.paper.methods import ABLATIONS, FAITHFUL, TITLES, order_of
from optimizer.paper.raw import RawRow
from optimizer.records import Record

_Z = 1.959963984540054
_FORMAT = "The share of malformed answers fell by at least as much as the score rose."


class Shown(Record, frozen=True, kw_only=True):
    """A score in 0..1 as a table shows it; without bounds where none can be given. ``n`` counts test questions."""

    score: float
    low: float | None = None
    high: float | None = None
    n: int = 0
    seeds: int = 1


Value = Shown | float | int | str | None


class Table(Record, frozen=True, kw_only=True):
    """A table: its short name, a title, column names, rows (the first cell names the row), a note beneath."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    note: str = ""


def tables(rows: Sequence[RawRow]) -> list[Table]:
    """All tables that these rows can fill, in the order of the report."""
    plain = [row for row in rows if row.plain]
    made = [
        generalization(plain),
        by_task(plain, "source", "sources", "Held-out rows of the source tasks, the task's own user prompt"),
        adaptation(rows),
        ablations(plain),
        scopes(plain),
        source_counts(rows),
        robustness(plain),
        other_bases(rows),
        cost(plain),
        reading(plain),
    ]
    return [table for table in made if table is not None and table.rows]


def generalization(rows: Sequence[RawRow]) -> Table | None:
    """Frozen system prompt, un-optimized user prompts, tasks that no search saw."""
    return by_task(rows, "unseen", "generalization", "Unseen tasks: frozen system prompt, un-optimized user prompts")


def by_task(rows: Sequence[RawRow], role: str, name: str, title: str) -> Table | None:
    """Methods x tasks of a role with the mean over tasks."""
    chosen = [row for row in rows if row.role == role]
    tasks = _unique(row.task for row in chosen)
    lines = []
    for label, group in _methods(chosen):
        cells = [over_seeds([row for row in group if row.task == task]) for task in tasks]
        lines.append((label, *cells, over_tasks(cells) if all(cells) else None))
    note = "Percent, 95 % interval. The mean is left out where a task is not measured yet."
    return Table(name=name, title=title, columns=("method", *tasks, "mean"), rows=tuple(lines), note=note)


def adaptation(rows: Sequence[RawRow]) -> Table | None:
    """The user prompt of each unseen task tuned on its own training rows, the system prompt frozen."""
    chosen = [row for row in rows if row.adapted]
    found = by_task(chosen, "unseen", "adaptation", "Test-time adaptation: user prompt tuned per task (ProTeGi)")
    return found if chosen else None


def ablations(rows: Sequence[RawRow]) -> Table | None:
    """What each part of the method is worth: means over unseen tasks, per domain."""
    chosen = [row for row in rows if row.method in (*ABLATIONS, FAITHFUL, "metaspo", "default")]
    if not any(row.method in ABLATIONS for row in chosen):
        return None
    return _by_domain(chosen, "ablations", "Ablations: means over the unseen tasks of a domain")


def scopes(rows: Sequence[RawRow]) -> Table | None:
    """One prompt for everything against one prompt per domain."""
    both = {row.method for row in rows if row.scope == "global"}
    chosen = [row for row in rows if row.method in both]
    return _by_domain(chosen, "scopes", "Global against domain: means over the unseen tasks") if both else None


def source_counts(rows: Sequence[RawRow]) -> Table | None:
    """How the score of unseen tasks grows with the number of source tasks."""
    counted = [row for row in rows if row.method == "metaspo" and row.role == "unseen" and not row.adapted]
    if not any(row.sources for row in counted):
        return None
    domains = _unique(row.domain for row in counted)
    lines = []
    for count in sorted({row.sources for row in counted}, key=lambda n: n or math.inf):
        group = [row for row in counted if row.sources == count and row.scope == "domain"]
        lines.append((str(count) if count else "all", *(mean_of([r for r in group if r.domain == d]) for d in domains)))
    title = "Number of source tasks: MetaSPO (ours), means over the unseen tasks"
    return Table(name="source_counts", title=title, columns=("source tasks", *domains), rows=tuple(lines))


def robustness(rows: Sequence[RawRow]) -> Table | None:
    """How a system prompt does over many user prompts: the paper's claim is that most do better."""
    with_scores = [row for row in rows if row.user_prompt_scores]
    measured = [{row.task for row in group} for _, group in _methods(with_scores)]
    tasks = set.intersection(*measured) if measured else set()
    chosen = [row for row in with_scores if row.task in tasks]
    asked = {(row.scope, row.domain, row.task, row.seed, row.method): row for row in chosen}
    lines: list[tuple[Value, ...]] = []
    for label, group in _methods(chosen):
        better = total = 0
        for row in group:
            default = asked.get(("domain", row.domain, row.task, row.seed, "default"))
            if default is None or len(default.user_prompt_scores) != len(row.user_prompt_scores):
                continue
            better += sum(a > b for a, b in zip(row.user_prompt_scores, default.user_prompt_scores, strict=True))
            total += len(row.user_prompt_scores)
        scores = [score for row in group for score in row.user_prompt_scores]
        share = better / total if total and group[0].method != "default" else None
        lines.append((label, len(scores), min(scores), fmean(scores), max(scores), share))
    columns = ("method", "user prompts", "worst", "mean", "best", "better than under Default")
    n = [row.answers // len(row.user_prompt_scores) for row in asked.values()]
    note = f"Percent, on {', '.join(sorted(tasks))}: the tasks that every row of this table was measured on. "
    note += f"Each user prompt answered {min(n)} to {max(n)} questions of its task." if n else ""
    title = "Robustness over user prompts of the unseen tasks"
    return Table(name="robustness", title=title, columns=columns, rows=tuple(lines), note=note)


def other_bases(rows: Sequence[RawRow]) -> Table | None:
    """Prompts found on one base model, measured on others."""
    chosen = [row for row in rows if row.role == "unseen" and not row.adapted and not row.sources]
    if not any(row.found_on for row in chosen):
        return None
    bases = _unique(row.base_model for row in chosen)
    lines = [
        (label, *(mean_of([row for row in group if row.base_model == base]) for base in bases))
        for label, group in _methods(chosen)
    ]
    found_on = _unique(row.found_on for row in chosen if row.found_on)
    title = f"Other base models: prompts found on {', '.join(found_on)}, means over the unseen tasks"
    return Table(name="other_bases", title=title, columns=("method", *bases), rows=tuple(lines))


def cost(rows: Sequence[RawRow]) -> Table | None:
    """What it cost to find each prompt, beside what it is worth on held-out rows of the tasks it was learned on."""
    lines: list[tuple[Value, ...]] = []
    for label, group in _methods(rows):
        runs = {(row.domain if row.scope == "domain" else "", row.seed): row for row in group}.values()
        holdout = [row for row in group if row.role == "source"]
        lines.append(
            (
                label,
                len(runs),
                round(fmean(row.base_calls for row in runs)),
                round(fmean(row.requested_calls for row in runs)),
                round(fmean(row.optimizer_calls for row in runs)),
                round(fmean(row.wall_seconds for row in runs)),
                round(fmean(row.prompt_tokens for row in runs)),
                mean_of(holdout, [row for row in rows if row.role == "source"]),
                mean_of([row for row in group if row.role == "unseen"], [row for row in rows if row.role == "unseen"]),
            )
        )
    columns = ("method", "runs", "base calls", "evaluations asked", "optimizer calls", "seconds", "prompt tokens",
               "held-out, source", "unseen")  # fmt: skip
    note = "Means of a run. Base calls were paid for; evaluations asked count repeated requests as well."
    return Table(name="cost", title="What finding the prompt cost", columns=columns, rows=tuple(lines), note=note)


def reading(rows: Sequence[RawRow]) -> Table | None:
    """Task by task: what holds and what does not, against Default and against the constant answer."""
    lines: list[tuple[Value, ...]] = []
    for task in _unique(row.task for row in rows):
        of_task = [row for row in rows if row.task == task]
        default = [row for row in of_task if row.method == "default"]
        if not default:
            continue
        start, constant = over_seeds(default), over_seeds([row for row in of_task if row.method == "constant"])
        others = [
            (label, group) for label, group in _methods(of_task) if group[0].method not in ("default", "constant")
        ]
        if start is None or not others:
            continue
        label, group = max(others, key=lambda pair: fmean(row.score for row in pair[1]))
        best = over_seeds(group)
        assert best is not None
        lines.append(
            (task, default[0].role, constant, start, label, best, _verdict(start, best, constant, default, group))
        )
    columns = ("task", "role", "constant", "Default", "best method", "its score", "reading")
    note = "The best of several methods on the same rows is flattered by the choice; a reading is no test."
    return Table(name="reading", title="What holds, task by task", columns=columns, rows=tuple(lines), note=note)


def _verdict(
    start: Shown, best: Shown, constant: Shown | None, default: Sequence[RawRow], group: Sequence[RawRow]
) -> str:
    said = []
    gain = best.score - start.score
    if any(row.saturated for row in group):
        said.append("At its ceiling: not searched.")
    if best.low is not None and start.high is not None and best.low > start.high:
        said.append("Better than Default, intervals apart.")
    elif gain > 0:
        said.append("Above Default, intervals overlap.")
    else:
        said.append("Nothing beats Default.")
    mended = fmean(row.malformed for row in default) - fmean(row.malformed for row in group)
    if gain > 0 and mended >= gain:
        said.append(_FORMAT)
    if constant is not None and constant.score >= best.score:
        said.append("A constant answer does as well or better.")
    return " ".join(said)


# --- means -----------------------------------------------------------------------------------------------------------


def over_seeds(rows: Sequence[RawRow]) -> Shown | None:
    """The mean over the seeds of one method on one task; None without a row."""
    if not rows:
        return None
    score = fmean(row.score for row in rows)
    spread = variance([row.score for row in rows]) / len(rows) * _Z**2 if len(rows) > 1 else 0.0
    below = math.sqrt(fmean((row.score - row.low) ** 2 for row in rows) + spread)
    above = math.sqrt(fmean((row.high - row.score) ** 2 for row in rows) + spread)
    low, high = max(0.0, score - below), min(1.0, score + above)
    return Shown(score=score, low=low, high=high, n=max(row.n for row in rows), seeds=len(rows))


def over_tasks(cells: Iterable[Shown | None]) -> Shown | None:
    """The plain mean over tasks; None when there is none."""
    some = [cell for cell in cells if cell is not None]
    if not some:
        return None
    score = fmean(cell.score for cell in some)
    n, seeds = sum(cell.n for cell in some), min(cell.seeds for cell in some)
    below = math.sqrt(sum((cell.score - (cell.low or 0.0)) ** 2 for cell in some)) / len(some)
    above = math.sqrt(sum(((1.0 if cell.high is None else cell.high) - cell.score) ** 2 for cell in some)) / len(some)
    return Shown(score=score, low=max(0.0, score - below), high=min(1.0, score + above), n=n, seeds=seeds)


def mean_of(rows: Sequence[RawRow], among: Sequence[RawRow] = ()) -> Shown | None:
    """The mean over the tasks of ``rows``, each over its seeds. None when a task is missing that ``among`` has: means
    over different tasks must not stand in one column."""
    tasks = _unique(row.task for row in rows)
    if {row.task for row in among} - set(tasks):
        return None
    return over_tasks(over_seeds([row for row in rows if row.task == task]) for task in tasks)


def _by_domain(rows: Sequence[RawRow], name: str, title: str) -> Table:
    unseen = [row for row in rows if row.role == "unseen"]
    domains = _unique(row.domain for row in unseen)
    lines = []
    for label, group in _methods(unseen):
        cells = [
            mean_of([row for row in group if row.domain == domain], [row for row in unseen if row.domain == domain])
            for domain in domains
        ]
        lines.append((label, *cells, over_tasks(cells) if all(cells) else None))
    return Table(name=name, title=title, columns=("method", *domains, "mean of domains"), rows=tuple(lines))


def _methods(rows: Sequence[RawRow]) -> list[tuple[str, list[RawRow]]]:
    """(label, rows) per method and scope, in the order of the paper's tables."""
    groups: dict[tuple[str, str], list[RawRow]] = defaultdict(list)
    for row in rows:
        groups[row.method, row.scope].append(row)
    return [
        (label_of(*key, groups[key][0].sizes), groups[key]) for key in sorted(groups, key=lambda key: order_of(*key))
    ]


def label_of(method: str, scope: str, sizes: str = "") -> str:
    """A method's name in a table, with the sizes of a published loop."""
    return TITLES.get(method, method) + (", global" if scope == "global" else "") + (f", {sizes}" if sizes else "")


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
