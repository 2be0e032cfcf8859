"""``metaspo paper``: the paper's protocol from one file: ``init``, ``tasks``, ``estimate``, ``run``, ``report``,
``judge``. Without one of these words the command is ``run``.

Results go to standard output, progress to standard error. A run that was stopped goes on when it is started again.
"""

from __future__ import annotations

import sys
import textwrap
import time
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from optimizer.cli import json_text, run_async, told

if TYPE_CHECKING:
    from optimizer.paper.protocol import Protocol

_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=Path("paper.yaml"))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_CHANGES = (
    click.option("--data", help="Folder of task folders; the public originals otherwise."),
    click.option("--domain", "domains", multiple=True, help="Only this domain; may be given several times."),
    click.option("--method", "methods", multiple=True, help="Only this method; may be given several times."),
    click.option("--seed", "seeds", multiple=True, type=int, help="Only this seed; may be given several times."),
    click.option("--train-rows", type=int, help="Rows per task that a search may learn from."),
    click.option("--test-rows", type=int, help="Rows per task that score."),
    click.option("--fewer", is_flag=True, default=None, help="Take what there is where a task has fewer rows."),
    click.option("--home", help="Where journals, finished cells and results lie."),
)


class _RunByDefault(click.Group):
    """A group whose command is ``run`` when the first word is none of its commands. Options may stand before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        before = self._options_before(args)
        if before and before < len(args) and args[before] in self.commands:
            args = [args[before], *args[:before], *args[before + 1 :]]
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            if args and not Path(args[0]).exists() and (close := get_close_matches(args[0], self.commands, n=1)):
                raise click.UsageError(f"There is no command or file {args[0]!r}. Did you mean {close[0]!r}?", ctx)
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def _options_before(self, args: list[str]) -> int:
        """How many of ``args`` are options and their values, before the first other word."""
        options = [param for command in self.commands.values() for param in command.params]
        valued = {
            name for param in options if isinstance(param, click.Option) and not param.is_flag for name in param.opts
        }
        place = 0
        while place < len(args) and args[place].startswith("-"):
            place += 2 if args[place] in valued else 1
        return place


def _changed(command: Any) -> Any:
    for option in reversed(_CHANGES):
        command = option(command)
    return command


def _protocol(file: Path, changes: dict[str, Any]) -> Protocol:
    from optimizer.paper.protocol import load_protocol

    given = {name: list(value) if isinstance(value, tuple) else value for name, value in changes.items()}
    return load_protocol(file, {name: value for name, value in given.items() if value not in (None, [])})


@click.group(cls=_RunByDefault)
def paper() -> None:
    """The paper's protocol: methods x tasks, tables and figures. Without a command's name: run."""


@paper.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=Path("paper.yaml"))
@told
def init(file: Path) -> None:
    """Write an example of the protocol's FILE (paper.yaml)."""
    from optimizer.paper.protocol import EXAMPLE

    if file.exists():
        raise click.ClickException(f"{file} is there already: it was left as it is.")
    if not file.parent.is_dir():
        raise click.ClickException(
            f"The folder {file.parent} is missing: make it with `mkdir -p {file.parent}`, or name a file elsewhere."
        )
    file.write_text(EXAMPLE, encoding="utf-8")
    click.echo(f"{file} is written. Name your models in it, then: metaspo paper estimate {file}")


@paper.command()
@click.option("--tasks", type=click.Path(path_type=Path), help="A folder with task files of your own.")
@_JSON
@told
def tasks(tasks: Path | None, as_json: bool) -> None:
    """List the tasks that are known, with their role, metric, data set and licence."""
    from optimizer.paper.catalogue import catalogue

    found = sorted(catalogue(tasks).values(), key=lambda task: (task.domain, task.role, task.name))
    if as_json:
        click.echo(json_text(msgspec.to_builtins(found)))
        return
    for task in found:
        origin = task.dataset.id if task.dataset else "a folder of yours"
        line = f"{task.domain:12} {task.name:26} {task.role:7} {task.metric:12} {origin}, {task.licence}"
        click.echo(textwrap.fill(line, 80, subsequent_indent=" " * 13, break_on_hyphens=False))


@paper.command()
@_FILE
@_changed
@click.option("--calls-per-second", type=click.FloatRange(min=0, min_open=True), help="Pace of the base model.")
@click.option(
    "--optimizer-seconds",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    help="Seconds of one optimizer call.",
)
@click.option("--judge-seconds", type=click.FloatRange(min=0), help="Seconds of one judge call; as a base call if not.")
@_JSON
@told
def estimate(
    file: Path,
    calls_per_second: float | None,
    optimizer_seconds: float,
    judge_seconds: float | None,
    as_json: bool,
    **changes: Any,
) -> None:
    """Say how many calls of each role FILE takes at most, cell by cell, and how long at a pace. Calls no model."""
    from optimizer.paper.estimate import Pace, usd_of
    from optimizer.paper.page import estimate_page
    from optimizer.paper.run import Run

    run = Run(_protocol(file, changes), clock=time.time, say=lambda line: click.echo(line, err=True))
    run.load_tasks()
    rows = run.estimates()
    usd = usd_of(run.protocol, rows, run.tasks)
    pace = None
    if calls_per_second:
        judging = 1 / calls_per_second if judge_seconds is None else judge_seconds
        pace = Pace(base_per_second=calls_per_second, optimizer_seconds=optimizer_seconds, judge_seconds=judging)
    titled = [(cell.title if cell is not None else "user prompts, written once", found) for cell, found in rows]
    if as_json:
        cells = [{"cell": title, **msgspec.to_builtins(found), "calls": found.calls} for title, found in titled]
        money = msgspec.to_builtins(usd) if usd else None
        click.echo(json_text({"cells": cells, "calls": sum(found.calls for _, found in rows), "usd": money}))
    else:
        click.echo(estimate_page(titled, pace, usd))


@paper.command()
@_FILE
@_changed
@click.option("--verbose", is_flag=True, help="Tell what the searches tell.")
@_JSON
@told
def run(file: Path, verbose: bool, as_json: bool, **changes: Any) -> None:
    """Run FILE (paper.yaml), going on where it was stopped; ends with the tables."""
    from optimizer.follow import Follower
    from optimizer.paper.keeping import read_ledger
    from optimizer.paper.page import report_page
    from optimizer.paper.run import Run
    from optimizer.records import Event

    protocol = _protocol(file, changes)
    finished = 0

    def follow(event: Event) -> None:
        if event.kind == "progress":
            follower.progress(finished + event.data["calls"])
        elif verbose and event.message:
            follower.say(f"    {event.kind}: {event.message}")

    def at_cell(done: int, total: int) -> None:
        nonlocal finished
        finished = done
        follower.progress(done, total=total)

    try:
        with Follower(None, doing="measuring") as follower:
            running = Run(protocol, clock=time.time, say=follower.say, on_event=follow, at_cell=at_cell)
            rows = run_async(running.all())
    except KeyboardInterrupt:
        raise click.ClickException(
            f"Stopped. Nothing paid for is lost: the same command goes on, and `metaspo paper report "
            f"{protocol.home / 'raw.jsonl'}` shows what there is."
        ) from None
    ledger = read_ledger(protocol.home / "ledger.json")
    click.echo(json_text(msgspec.to_builtins(rows)) if as_json else report_page(rows, ledger=ledger))
    sys.stderr.write(f"raw results: {protocol.home / 'raw.jsonl'}\n")


@paper.command()
@_FILE
@_changed
@click.option("--rows", default=40, show_default=True, type=click.IntRange(1), help="Test rows per task.")
@click.option("--all", "every", is_flag=True, help="Also tasks that a rule scores; otherwise only judged ones.")
@_JSON
@told
def judge(file: Path, rows: int, every: bool, as_json: bool, **changes: Any) -> None:
    """Measure the judge of FILE's tasks on known pairs: right, wrong, swapped references, attacks, both orders."""
    from optimizer.errors import DataError
    from optimizer.paper.known import known_pairs, rates_table
    from optimizer.paper.page import markdown
    from optimizer.paper.run import Run

    run = Run(_protocol(file, changes), clock=time.time, say=lambda line: click.echo(line, err=True))
    run.load_tasks()
    chosen = [task for task in run.tasks.values() if every or task.by_model]
    if not chosen:
        raise DataError(f"{file} has no task that a judge model scores: add one, for example gsm8k_judged, or --all.")
    home = run.protocol.home / "judge"
    rates = run_async(known_pairs(run.protocol.models, chosen, rows=rows, home=home, clock=time.time))
    click.echo(json_text(msgspec.to_builtins(rates)) if as_json else markdown(rates_table(rates)))


@paper.command()
@click.argument("raw", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--as-published", is_flag=True, help="Score the same replies by the published metrics, quirks and all.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write report.md, .json, .csv and SVGs.")
@_JSON
@told
def report(raw: Path, as_published: bool, out: Path | None, as_json: bool) -> None:
    """Make every table and figure from RAW, the raw results of a run, finished or not, with the ledger beside it."""
    from optimizer.paper.keeping import read_ledger
    from optimizer.paper.page import report_dict, report_page, write_report
    from optimizer.paper.raw import read_prompts, read_raw

    rows, prompts = read_raw(raw), read_prompts(raw.parent / "prompts.jsonl")
    ledger = read_ledger(raw.parent / "ledger.json")
    if out is not None:
        for path in write_report(out, rows, prompts, as_published=as_published, ledger=ledger):
            click.echo(f"written: {path}", err=True)
    if as_json:
        click.echo(json_text(report_dict(rows, as_published=as_published, ledger=ledger)))
    else:
        click.echo(report_page(rows, prompts, as_published=as_published, ledger=ledger))
