"""Every table of the report, made from raw rows and from nothing else. How means and intervals are taken is said in
``optimizer.paper.shown``, what the scores are in ``optimizer.paper.scales``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from optimizer.paper.methods import ABLATIONS, FAITHFUL
from optimizer.paper.raw import RawRow
from optimizer.paper.robustness import robustness
from optimizer.paper.scales import MEAN_RIGHT, SIGNS, as_right, has_macro_f1, name_of, scale_of, told
from optimizer.paper.shown import Shown, Table, Value, mean_of, methods_of, over_seeds, over_tasks, per_run, unique

_FORMAT = "The share of malformed answers fell by at least as much as the score rose."


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
    """Methods x tasks of a role with the mean over tasks; beside a mean that holds macro-F1, the mean share of right
    answers."""
    chosen = [row for row in rows if row.role == role]
    tasks = unique(row.task for row in chosen)
    more = has_macro_f1(chosen)
    lines = []
    for label, group in methods_of(chosen):
        cells = [over_seeds([row for row in group if row.task == task]) for task in tasks]
        right = (mean_of(as_right(group), chosen),) if more else ()
        lines.append((label, *cells, over_tasks(cells) if all(cells) else None, *right))
    columns = ("method", *tasks, name_of(chosen, "mean"), *((MEAN_RIGHT,) if more else ()))
    note = f"Percent, 95 % interval. The mean is left out where a task is not measured yet.{_scales(chosen)}"
    return Table(name=name, title=title, columns=columns, rows=tuple(lines), note=note)


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
    counted = counts_of(rows)
    if not any(row.sources for row in counted):
        return None
    domains = unique(row.domain for row in counted)
    lines = []
    for count in sorted({row.sources for row in counted}, key=lambda n: n or math.inf):
        cells = []
        for domain in domains:
            of_domain = [row for row in counted if row.domain == domain]
            cells.append(mean_of([row for row in of_domain if row.sources == count], of_domain))
        lines.append((str(count) if count else "all", *cells))
    title = "Number of source tasks: MetaSPO (ours), means over the unseen tasks"
    note = told(counted)
    return Table(name="source_counts", title=title, columns=("source tasks", *domains), rows=tuple(lines), note=note)


def counts_of(rows: Sequence[RawRow]) -> list[RawRow]:
    """The rows that differ in the number of source tasks alone (0: all of the domain)."""
    return [
        row
        for row in rows
        if (row.method, row.scope, row.role) == ("metaspo", "domain", "unseen") and not (row.adapted or row.found_on)
    ]


def other_bases(rows: Sequence[RawRow]) -> Table | None:
    """Prompts found on one base model, measured on others."""
    chosen = [row for row in rows if row.role == "unseen" and not row.adapted and not row.sources]
    if not any(row.found_on for row in chosen):
        return None
    bases = unique(row.base_model for row in chosen)
    lines = [
        (label, *(mean_of([row for row in group if row.base_model == base], chosen) for base in bases))
        for label, group in methods_of(chosen)
    ]
    found_on = unique(row.found_on for row in chosen if row.found_on)
    means = name_of(chosen, "means").removeprefix("means")
    title = f"Other base models: prompts found on {', '.join(found_on)}, means{means} over the unseen tasks"
    columns = ("method", *bases)
    return Table(name="other_bases", title=title, columns=columns, rows=tuple(lines), note=told(chosen))


def cost(rows: Sequence[RawRow]) -> Table | None:
    """What it cost to find each prompt, beside what it is worth on held-out rows of the tasks it was learned on."""
    lines: list[tuple[Value, ...]] = []
    holdout, unseen = ([row for row in rows if row.role == role] for role in ("source", "unseen"))
    for label, group in methods_of(rows):
        runs = {(row.domain if row.scope == "domain" else "", row.seed) for row in group}
        lines.append(
            (
                label,
                len({domain for domain, _ in runs}),
                len(runs),
                round(per_run(group, lambda row: row.base_calls)),
                round(per_run(group, lambda row: row.requested_calls)),
                round(per_run(group, lambda row: row.optimizer_calls)),
                round(per_run(group, lambda row: row.wall_seconds)),
                round(per_run(group, lambda row: row.prompt_tokens)),
                mean_of([row for row in group if row.role == "source"], holdout),
                mean_of([row for row in group if row.role == "unseen"], unseen),
            )
        )
    columns = ("method", "domains", "runs", "base calls", "evaluations asked", "optimizer calls", "seconds",
               "prompt tokens", name_of(holdout, "held-out, source: mean"),
               name_of(unseen, "unseen: mean"))  # fmt: skip
    note = (
        "Means of a run: over the seeds of a domain, then over the domains. Base calls were paid for; evaluations "
        "asked count repeated requests as well. Prompt tokens are estimated: characters divided by four."
    )
    return Table(name="cost", title="What finding the prompt cost", columns=columns, rows=tuple(lines), note=note)


def reading(rows: Sequence[RawRow]) -> Table | None:
    """Task by task: what holds and what does not, against Default and against the constant answer."""
    lines: list[tuple[Value, ...]] = []
    for task in unique(row.task for row in rows):
        of_task = [row for row in rows if row.task == task]
        default = [row for row in of_task if row.method == "default"]
        if not default:
            continue
        start, constant = over_seeds(default), over_seeds([row for row in of_task if row.method == "constant"])
        others = [
            (label, group) for label, group in methods_of(of_task) if group[0].method not in ("default", "constant")
        ]
        if start is None or not others:
            continue
        label, group = max(others, key=lambda pair: fmean(row.score for row in pair[1]))
        best = over_seeds(group)
        assert best is not None
        lines.append(
            (
                task,
                default[0].role,
                scale_of(of_task),
                constant,
                start,
                label,
                best,
                _verdict(start, best, constant, default, group),
            )
        )
    columns = ("task", "role", "metric", "constant", "Default", "best method", "its score", "reading")
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


def _by_domain(rows: Sequence[RawRow], name: str, title: str) -> Table:
    unseen = [row for row in rows if row.role == "unseen"]
    domains = {domain: [row for row in unseen if row.domain == domain] for domain in unique(r.domain for r in unseen)}
    more = has_macro_f1(unseen)
    lines = []
    for label, group in methods_of(unseen):
        of_domain = {domain: [row for row in group if row.domain == domain] for domain in domains}
        cells = [mean_of(of_domain[domain], among) for domain, among in domains.items()]
        right = [mean_of(as_right(of_domain[domain]), among) for domain, among in domains.items()] if more else []
        means = [over_tasks(means) if all(means) else None for means in (cells, right) if means]
        lines.append((label, *cells, *means))
    columns = ("method", *(name_of(of, f"{domain}: mean").removesuffix(": mean") for domain, of in domains.items()),
               name_of(unseen, "mean of domains").replace("domains of", "domains,"),
               *((MEAN_RIGHT,) if more else ()))  # fmt: skip
    return Table(name=name, title=title, columns=columns, rows=tuple(lines), note=_scales(unseen).strip())


def _scales(rows: Sequence[RawRow]) -> str:
    """What the scores of a table are, for its note; with macro-F1, why right answers may say the opposite."""
    more = f" The paired differences count right answers on every task. {SIGNS}" if has_macro_f1(rows) else ""
    return f" {told(rows)}{more}" if told(rows) else ""
