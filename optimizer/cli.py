"""The optimizer as a tool on files alone: ``metaspo search``, ``estimate`` and ``simulate``.

Exit codes: 0 done, 1 failed with one sentence, 2 usage. Results go to standard output, progress to standard error.
Ctrl-C leaves a run that ``--resume`` continues.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, get_args

import click
import msgspec

from optimizer.errors import OptimizerError
from optimizer.records import Method

if TYPE_CHECKING:
    from optimizer.records import SearchSpec

P = ParamSpec("P")
R = TypeVar("R")

_METHODS = click.Choice(get_args(Method))
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def told(command: Callable[P, R]) -> Callable[P, R]:
    """Our errors as one sentence and exit code 1; Ctrl-C as the way to go on."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except OptimizerError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            raise click.ClickException(
                "Stopped. Nothing paid for is lost: go on with the same command and --resume."
            ) from None

    return wrapper


def _spec_options(command: Callable[P, R]) -> Callable[P, R]:
    """The options that change what a search file says."""
    for option in (
        click.option("--seed", type=int, help="Random seed; the file's random_seed otherwise."),
        click.option("--budget-usd", type=click.FloatRange(min=0, min_open=True), help="Most USD to spend."),
        click.option("--budget-calls", type=click.IntRange(min=1), help="Most model calls to make, all roles."),
        click.option("--faithful/--improved", default=None, help="The loop exactly as published, or ours (default)."),
        click.option(
            "--method",
            type=_METHODS,
            metavar="NAME",
            help=f"What to run: {', '.join(get_args(Method))}; the file's method, else metaspo.",
        ),
    ):
        command = option(command)
    return command


def _spec(
    file: Path,
    *,
    method: str | None = None,
    faithful: bool | None = None,
    budget_calls: int | None = None,
    budget_usd: float | None = None,
    seed: int | None = None,
    home: Path | None = None,
    resume: bool = False,
    reuse_holdout: bool = False,
) -> SearchSpec:
    """The file's search with the command line's changes."""
    from optimizer.search_file import load_search_file

    spec = load_search_file(file)
    budget = spec.budget
    if budget_calls is not None:
        budget = msgspec.structs.replace(budget, calls=budget_calls)
    if budget_usd is not None:
        budget = msgspec.structs.replace(budget, usd=budget_usd)
    changes: dict[str, Any] = {
        "method": method,
        "faithful": faithful,
        "seed": seed,
        "home": home,
        "resume": resume or None,
        "holdout": "reuse" if reuse_holdout else None,
        "budget": budget,
    }
    return msgspec.structs.replace(spec, **{name: value for name, value in changes.items() if value is not None})


@click.command()
@click.argument("file", type=_FILE)
@_spec_options
@click.option("--home", type=click.Path(path_type=Path), help="Where the journal lies; METASPO_SEARCH_HOME otherwise.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run of the same file: nothing is paid for twice.")
@click.option(
    "--reuse-holdout",
    is_flag=True,
    help="For development: let holdout examples confirm again that have confirmed an earlier run.",
)
@click.option("--json", "as_json", is_flag=True, help="End with the result as JSON.")
@told
def search(
    file: Path,
    method: str | None,
    faithful: bool | None,
    budget_calls: int | None,
    budget_usd: float | None,
    seed: int | None,
    home: Path | None,
    resume: bool,
    reuse_holdout: bool,
    as_json: bool,
) -> None:
    """Search for a better system prompt on the tasks of FILE."""
    from optimizer.estimate import estimate as predict
    from optimizer.follow import Follower
    from optimizer.report import result_page, result_to_dict
    from optimizer.search import search as run

    spec = _spec(
        file,
        method=method,
        faithful=faithful,
        budget_calls=budget_calls,
        budget_usd=budget_usd,
        seed=seed,
        home=home,
        resume=resume,
        reuse_holdout=reuse_holdout,
    )
    with Follower(int(predict(spec).calls.high)) as follower:
        result = run_async(run(spec, clock=time.time, on_event=follower))
    click.echo(json_text(result_to_dict(result)) if as_json else result_page(result))


@click.command()
@click.argument("file", type=_FILE)
@_spec_options
@click.option("--json", "as_json", is_flag=True, help="Print the estimate as JSON.")
@told
def estimate(
    file: Path,
    method: str | None,
    faithful: bool | None,
    budget_calls: int | None,
    budget_usd: float | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Say how many calls, tokens and USD the search of FILE takes. Calls no model."""
    from optimizer.estimate import estimate as predict
    from optimizer.report import estimate_page

    found = predict(
        _spec(file, method=method, faithful=faithful, budget_calls=budget_calls, budget_usd=budget_usd, seed=seed)
    )
    click.echo(json_text(msgspec.to_builtins(found)) if as_json else estimate_page(found))


class _Simulations(click.Group):
    """The simulations, imported when one is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        return ["gate", "search"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in ("gate", "search"):
            return None
        from optimizer.simulation import cli as simulations

        command: click.Command = getattr(simulations, f"simulate_{cmd_name}")
        return command


@click.group(cls=_Simulations)
def simulate() -> None:
    """Error rates of the gate and figures of the search on worlds with known truth."""


def run_async(work: Coroutine[Any, Any, R]) -> R:
    """Run one coroutine on uvloop where there is one, which halves what a call costs us."""
    import asyncio

    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)


def json_text(value: Any) -> str:
    """``value`` as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
