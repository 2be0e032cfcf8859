"""The clock's commands: ``metaspo jobs ...``, ``optimize``, ``runs``, ``judge``, ``simulate canary``.

Exit codes: 0 done, 1 failed with one sentence, 2 usage. ``--json`` on every command that reads.
"""

from __future__ import annotations

import asyncio
import functools
import getpass
import json
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from jobs.errors import JobsError

if TYPE_CHECKING:
    from registry import Registry, Run, Settings

P = ParamSpec("P")
R = TypeVar("R")

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_METRICS = click.option("--metrics", metavar="HOST:PORT", help="Serve Prometheus metrics there.")


def _told(command: Callable[P, R]) -> Callable[P, R]:
    """The house's errors as one sentence and exit code 1."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        from registry import RegistryError

        try:
            return command(*args, **kwargs)
        except (JobsError, RegistryError) as error:
            raise click.ClickException(str(error)) from error

    return wrapper


def _settings(ctx: click.Context) -> Settings:
    from registry import load_settings

    given = (ctx.find_root().obj or {}).get("config") or os.environ.get("METASPO_CONFIG")
    path = Path(given) if given else Path("metaspo.yaml")
    return load_settings(path if given or path.is_file() else None)


def _with_registry(ctx: click.Context, what: Callable[[Registry, Settings], Awaitable[R]], *, sign: bool = False) -> R:
    """Open the registry, do one thing, close it. ``sign``: it may write versions."""
    from jobs.connect import open_registry

    settings = _settings(ctx)

    async def main() -> R:
        async with open_registry(settings, sign=sign) as registry:
            return await what(registry, settings)

    return asyncio.run(main())


def _who() -> str:
    return f"cli:{getpass.getuser()}"


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("taskiq").setLevel(logging.ERROR)


# --- processes and jobs ----------------------------------------------------------------------------------------------


@click.group()
def jobs() -> None:
    """What happens by itself: worker, scheduler, what runs when, run one now."""


@jobs.command()
@_METRICS
@click.pass_context
@_told
def worker(ctx: click.Context, metrics: str | None) -> None:
    """Do what is asked for and what is due. Any number on any number of machines."""
    from jobs.worker import worker as work

    _log()
    asyncio.run(work(_settings(ctx), metrics=metrics))


@jobs.command()
@_METRICS
@click.pass_context
@_told
def scheduler(ctx: click.Context, metrics: str | None) -> None:
    """Say what is due. Any number; one of them is elected."""
    from jobs.scheduler import scheduler as schedule

    _log()
    asyncio.run(schedule(_settings(ctx), metrics=metrics))


@jobs.command("list")
@_JSON
@click.pass_context
@_told
def list_jobs(ctx: click.Context, as_json: bool) -> None:
    """What runs when, and what waits."""
    from jobs.listing import jobs_page, listing

    rows = _with_registry(ctx, listing)
    click.echo(json.dumps(rows, indent=2) if as_json else jobs_page(rows))


@jobs.command("run")
@click.argument("name")
@click.option("--domain", help="The domain it works on.")
@click.option("--task", help="The task (job `adapt`).")
@click.option("--version", "number", type=click.IntRange(1), help="The version (job `shadow`).")
@click.option("--here", is_flag=True, help="Do it in this process instead of asking a worker.")
@_JSON
@click.pass_context
@_told
def run_now(
    ctx: click.Context, name: str, domain: str | None, task: str | None, number: int | None, here: bool, as_json: bool
) -> None:
    """Run one job now."""
    from jobs.now import do_here, run_job, wish

    args = {key: value for key, value in (("task", task), ("version", number)) if value is not None}

    async def main(registry: Registry, settings: Settings) -> tuple[str, dict[str, Any]]:
        if here:
            trigger = await wish(registry, name, domain, by=_who(), why="run by hand", args=args)
            said = await do_here(registry, settings, trigger)
            return said, {"trigger": trigger.id, "done": said}
        trigger = await run_job(registry, name, domain, by=_who(), why="run by hand", args=args)
        runs = bool(await registry.lease_holder("scheduler"))
        waits = "" if runs else "; no scheduler is running, so it waits for one"
        return f"asked for: {trigger.id}{waits}", {"trigger": trigger.id, "scheduler": runs}

    text, about = _with_registry(ctx, main, sign=here)
    click.echo(json.dumps(about, indent=2) if as_json else text)


@jobs.command("report")
@click.option("--domain", required=True)
@_JSON
@click.pass_context
@_told
def show_report(ctx: click.Context, domain: str, as_json: bool) -> None:
    """The last weekly page of a domain."""
    from jobs.report import latest, page

    facts = _with_registry(ctx, lambda registry, _: latest(registry, domain))
    if facts is None:
        raise click.ClickException(
            f"No report of {domain!r} yet: `metaspo jobs run report --domain {domain}` writes one."
        )
    click.echo(json.dumps(facts, indent=2) if as_json else page(facts), nl=as_json)


# --- searches --------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("domain")
@click.option("--method", default="metaspo", show_default=True, help="The search method.")
@click.option(
    "--unseen", multiple=True, metavar="TASK", help="Keep this task out of the search and measure it at the end."
)
@click.option("--budget-calls", type=click.IntRange(min=0), help="Model calls it may make (0: no limit).")
@click.option("--budget-usd", type=click.FloatRange(min=0), help="USD it may spend.")
@click.option("--why", default="", help="For the audit.")
@click.option("--no-follow", is_flag=True, help="Print the run's id and return.")
@_JSON
@click.pass_context
@_told
def optimize(
    ctx: click.Context,
    domain: str,
    method: str,
    unseen: tuple[str, ...],
    budget_calls: int | None,
    budget_usd: float | None,
    why: str,
    no_follow: bool,
    as_json: bool,
) -> None:
    """Ask for a re-optimization of DOMAIN now, and follow it. Ctrl-C stops the following, not the run."""
    from jobs.following import ask, follow

    budget = {k: v for k, v in (("calls", budget_calls), ("usd", budget_usd)) if v is not None}
    args = {"method": method, "unseen": list(unseen), **({"budget": budget} if budget else {})}

    async def main(registry: Registry, _: Settings) -> Run:
        run = await ask(registry, domain, args, by=_who(), why=why)
        click.echo(run.id, err=as_json)
        return run if no_follow else await follow(registry, run, quiet=as_json)

    try:
        _end(_with_registry(ctx, main), as_json=as_json)
    except KeyboardInterrupt:
        raise click.ClickException("Not followed any more; the run goes on. `metaspo runs show ID` shows it.") from None


def _end(run: Run, *, as_json: bool) -> None:
    """The run's last word; exit code 1 when it failed."""
    from jobs.convert import plain

    click.echo(json.dumps(plain(run), indent=2) if as_json else f"{run.state}: {run.reason or 'asked for'}")
    if run.state in {"failed", "cancelled"}:
        raise SystemExit(1)


@click.group()
def runs() -> None:
    """Searches: what they cost, what the gate said, what became of them."""


@runs.command("list")
@click.option("--domain", help="Of this domain only.")
@_JSON
@click.pass_context
@_told
def list_runs(ctx: click.Context, domain: str | None, as_json: bool) -> None:
    """All searches, the newest first."""
    from jobs.convert import plain
    from jobs.listing import run_line

    found = _with_registry(ctx, lambda registry, _: registry.list_runs(domain))
    click.echo(
        json.dumps([plain(r) for r in found], indent=2) if as_json else "\n".join(map(run_line, found)) or "No runs."
    )


@runs.command("show")
@click.argument("run_id")
@_JSON
@click.pass_context
@_told
def show_run(ctx: click.Context, run_id: str, as_json: bool) -> None:
    """One search: cost, generations, gate result, finalist."""
    from jobs.convert import plain
    from jobs.listing import run_page

    found = _with_registry(ctx, lambda registry, _: registry.get_run(run_id))
    click.echo(json.dumps(plain(found), indent=2) if as_json else run_page(found))


@runs.command("resume")
@click.argument("run_id")
@click.option("--no-follow", is_flag=True, help="Print the new run's id and return.")
@_JSON
@click.pass_context
@_told
def resume_run(ctx: click.Context, run_id: str, no_follow: bool, as_json: bool) -> None:
    """Go on with a failed or cancelled search, on its journal: nothing is paid for twice."""
    from jobs.following import ask, follow, resumable

    async def main(registry: Registry, _: Settings) -> Run:
        old = await resumable(registry, run_id)
        args = {"method": old.method, "resume": old.id}
        run = await ask(registry, old.domain, args, by=_who(), why=f"resumes {old.id}")
        click.echo(run.id, err=as_json)
        return run if no_follow else await follow(registry, run, quiet=as_json)

    _end(_with_registry(ctx, main), as_json=as_json)


# --- judge and simulations -------------------------------------------------------------------------------------------


@click.group()
def judge() -> None:
    """The judge of live answers."""


@judge.command("calibrate")
@click.argument("domain")
@_JSON
@click.pass_context
@_told
def calibrate(ctx: click.Context, domain: str, as_json: bool) -> None:
    """Compare the judge with people's labels and with itself, now."""
    from jobs.calibrate import KIND
    from jobs.now import do_here, wish

    async def main(registry: Registry, settings: Settings) -> tuple[str, dict[str, Any]]:
        trigger = await wish(registry, "calibrate", domain, by=_who(), why="asked for")
        said = await do_here(registry, settings, trigger)
        entries = await registry.history(domain, limit=50)
        return said, next((e.detail for e in entries if e.kind == KIND), {})

    said, detail = _with_registry(ctx, main)
    click.echo(json.dumps(detail, indent=2) if as_json else said)


class _Simulations(click.Group):
    """Loaded when used: simulations need numpy."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return ["canary"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from jobs.simulate import simulate as found

        return found.get_command(ctx, cmd_name)


simulate = _Simulations("simulate", help="Measured error rates on simulated worlds with known truth.")
