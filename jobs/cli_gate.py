"""``metaspo gate``: a prompt that a person wrote against the one in force, for CI before a merge.

Exit codes: 0 PASS, or nothing changed; 1 FAIL, INCONCLUSIVE, or the measurement failed; 2 something that was handed in
cannot be used.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from optimizer import SearchResult, SearchSpec

_TEXT = click.Path(path_type=Path, exists=True, dir_okay=False)
_FORMS = (".yaml", ".yml", ".json")
"""Files with versions in them, as `metaspo prompts export` writes them; any other file is a prompt, as it stands."""


@click.command()
@click.argument("file", type=_TEXT)
@click.option("--prompt", type=_TEXT, required=True, help="The new prompt: a text, or an exported file's last version.")
@click.option("--against", type=_TEXT, help="The prompt in force, as a file; else the search file's incumbent or seed.")
@click.option("--live", metavar="DOMAIN", help="The prompt in force is what this domain serves.")
@click.option("--budget-calls", type=click.IntRange(min=1), help="Most model calls to make, all roles.")
@click.option("--budget-usd", type=click.FloatRange(min=0, min_open=True), help="Most USD to spend.")
@click.option("--home", type=click.Path(path_type=Path), help="Where the journal lies; METASPO_SEARCH_HOME otherwise.")
@click.option(
    "--reuse-holdout",
    is_flag=True,
    help="For development: let holdout examples confirm again that have confirmed an earlier prompt.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.pass_context
def gate(
    ctx: click.Context,
    file: Path,
    prompt: Path,
    against: Path | None,
    live: str | None,
    budget_calls: int | None,
    budget_usd: float | None,
    home: Path | None,
    reuse_holdout: bool,
    as_json: bool,
) -> None:
    """Measure a prompt that a person wrote on the tasks of FILE, a search file, and let the gate decide.

    The prompt in force and the new one answer the same fresh holdout examples; the safety suites are asked. Exit code
    0: PASS, or the text is the one in force. 1: FAIL or INCONCLUSIVE, or the models failed. 2: a file or a domain
    cannot be used. The same pair again costs nothing.
    """
    from optimizer import DataError, OptimizerError, SearchFileError, gate_page, load_search_file, result_to_dict
    from registry import RegistryError

    if against and live:
        raise click.UsageError("Say --against or --live, not both: there is one prompt in force.")
    try:
        spec = load_search_file(file)
        new = prompt_in(prompt)
        old = prompt_in(against) if against else asyncio.run(_served(ctx, live)) if live else None
    except (SearchFileError, DataError, RegistryError) as error:
        raise click.UsageError(str(error)) from error
    spec = _changed(spec, old, budget_calls, budget_usd, home, reuse_holdout=reuse_holdout)
    if new == (spec.seed_prompt if spec.incumbent is None else spec.incumbent):
        said = "The prompt is the one in force, word for word: there is nothing to measure."
        click.echo(json.dumps({"outcome": None, "reason": said}, indent=2) if as_json else said)
        return
    try:
        result = _measure(spec, new)
    except OptimizerError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException("Stopped. Nothing paid for is lost: the same command goes on.") from None
    if as_json:
        told: dict[str, Any] = result_to_dict(result)
        click.echo(json.dumps({**(told["gate"] or {}), "result": told}, indent=2))
    else:
        click.echo(gate_page(result))
    if result.gate is None or result.gate.outcome != "PASS":
        ctx.exit(1)


def _measure(spec: SearchSpec, prompt: str) -> SearchResult:
    from optimizer import Follower, measure_by_hand

    with Follower(spec.budget.calls, doing="measuring") as follower:
        return asyncio.run(measure_by_hand(spec, prompt, clock=time.time, on_event=follower))


def prompt_in(path: Path) -> str:
    """The prompt that a file holds: its text, or the last of its versions that is not blocked. Raises UsageError."""
    from registry import Refused, read_prompts

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(
            f"{path} cannot be read as text: {getattr(error, 'strerror', None) or error}."
        ) from error
    if path.suffix.lower() not in _FORMS:
        if not text.strip():
            raise click.UsageError(f"{path} is empty: there is no prompt to measure.")
        return text.strip("\n")
    try:
        found = [prompt for prompt in read_prompts(text, path.name) if not prompt.blocked]
    except Refused as error:
        raise click.UsageError(str(error)) from error
    if not found:
        raise click.UsageError(f"{path} holds no version that may be served.")
    return found[-1].system_prompt


async def _served(ctx: click.Context, domain: str) -> str:
    """What the domain serves. Raises RegistryError, UsageError."""
    import os

    from jobs.connect import open_registry
    from jobs.errors import JobsError
    from registry import load_settings

    given = (ctx.find_root().obj or {}).get("config") or os.environ.get("METASPO_CONFIG")
    path = Path(given) if given else Path("metaspo.yaml")
    settings = load_settings(path if given or path.is_file() else None, require_secrets=False)
    try:
        async with open_registry(settings) as registry:
            await registry.get_domain(domain)
            stable = (await registry.deployment(domain)).stable
            if stable is None:
                raise click.UsageError(
                    f"The domain {domain!r} serves no version of its own: say --against with the prompt in force."
                )
            return (await registry.get_version(domain, stable)).system_prompt
    except JobsError as error:
        raise click.UsageError(str(error)) from error


def _changed(
    spec: SearchSpec, old: str | None, calls: int | None, usd: float | None, home: Path | None, *, reuse_holdout: bool
) -> SearchSpec:
    """The file's search with the command line's changes."""
    from msgspec.structs import replace

    budget = spec.budget
    if calls is not None:
        budget = replace(budget, calls=calls)
    if usd is not None:
        budget = replace(budget, usd=usd)
    changes: dict[str, Any] = {"incumbent": old, "home": home, "holdout": "reuse" if reuse_holdout else None}
    return replace(spec, budget=budget, **{name: value for name, value in changes.items() if value is not None})
