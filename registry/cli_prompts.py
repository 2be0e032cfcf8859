"""``metaspo prompts ...``: versions, and the pointers."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry import lifecycle
from registry.cli_prompt_files import export, import_, read_text
from registry.cli_session import (
    actor,
    epoch_option,
    json_option,
    moment,
    parse_moment,
    print_json,
    run,
    table,
    why_option,
)
from registry.errors import NotFound
from registry.records import AuditEntry, Deployment, Lineage, Version

if TYPE_CHECKING:
    from registry.registry import Registry


@click.group()
def prompts() -> None:
    """Versions of the system prompts, and which of them is live."""


def _role(number: int, deployment: Deployment) -> str:
    roles = []
    for name in ("stable", "canary", "previous", "holdback"):
        if getattr(deployment, name) == number:
            share = {"canary": deployment.share, "holdback": deployment.holdback_share}.get(name)
            roles.append(f"{name} {share:.0%}" if share else name)
    return ", ".join(roles)


@prompts.command("list")
@click.argument("domain")
@json_option
@click.pass_context
def list_(ctx: click.Context, domain: str, as_json: bool) -> None:
    """All versions of DOMAIN."""

    async def story(registry: Registry) -> tuple[Deployment, list[Version]]:
        return await registry.deployment(domain), await registry.list_versions(domain)

    deployment, versions = run(ctx, story)
    if as_json:
        print_json([{**_about(version), "live": _role(version.number, deployment)} for version in versions])
        return
    rows = [
        (
            version.number,
            "blocked" if version.blocked else _role(version.number, deployment),
            moment(version.created_at),
            version.lineage.author,
            version.system_prompt,
        )
        for version in versions
    ]
    click.echo(table(("N", "LIVE", "MADE", "BY", "PROMPT"), rows, wide=4))


def _about(version: Version) -> dict[str, Any]:
    return {
        "version": version.number,
        "system_prompt": version.system_prompt,
        "hash": version.hash,
        "created_at": version.created_at,
        "lineage": version.lineage,
        "blocked": version.blocked,
    }


@prompts.command()
@click.argument("domain")
@click.argument("number", type=int, required=False)
@json_option
@click.pass_context
def show(ctx: click.Context, domain: str, number: int | None, as_json: bool) -> None:
    """The text of version NUMBER of DOMAIN (absent: the stable one)."""

    async def story(registry: Registry) -> Version:
        wanted = number if number is not None else (await registry.deployment(domain)).stable
        if wanted is None:
            raise NotFound(f"{domain} has no stable version; `metaspo prompts list {domain}` shows what it has.")
        return await registry.get_version(domain, wanted)

    version = run(ctx, story)
    if as_json:
        print_json(_about(version))
    else:
        click.echo(version.system_prompt)


@prompts.command()
@click.argument("domain")
@click.argument("a", type=int)
@click.argument("b", type=int)
@json_option
@click.pass_context
def diff(ctx: click.Context, domain: str, a: int, b: int, as_json: bool) -> None:
    """What changed from version A to version B of DOMAIN."""

    async def story(registry: Registry) -> list[Version]:
        return [await registry.get_version(domain, number) for number in (a, b)]

    old, new = run(ctx, story)
    lines = list(
        difflib.unified_diff(
            old.system_prompt.splitlines(),
            new.system_prompt.splitlines(),
            f"{domain} version {a}",
            f"{domain} version {b}",
            lineterm="",
        )
    )
    if as_json:
        print_json({"domain": domain, "from": a, "to": b, "diff": lines})
        return
    colors = {"+": "green", "-": "red", "@": "cyan"}
    for line in lines or [f"Versions {a} and {b} have the same text."]:
        click.secho(line, fg=colors.get(line[:1]) if lines else None)


@prompts.command()
@click.argument("domain")
@click.option(
    "--file",
    "path",
    required=True,
    type=click.Path(path_type=Path, allow_dash=True),
    help="Text file; - for standard input.",
)
@click.option("--promote", "promoted", is_flag=True, help="Make it stable at once.")
@why_option
@json_option
@click.pass_context
def add(ctx: click.Context, domain: str, path: Path, promoted: bool, why: str, as_json: bool) -> None:
    """A new version of DOMAIN with the text of a file; a text it already has keeps its number."""
    text = read_text(path).strip("\n")

    async def story(registry: Registry) -> Version:
        version = await registry.add_version(domain, text, lineage=Lineage(author=actor(), why=why))
        if promoted:
            await registry.promote(domain, version.number, actor=actor(), why=why)
        return version

    version = run(ctx, story, signing=True)
    if as_json:
        print_json(_about(version))
    else:
        click.echo(f"Version {version.number} of {domain}{' is stable' if promoted else ''}.")


prompts.add_command(export)
prompts.add_command(import_)


# --- pointers --------------------------------------------------------------------------------------------------------


def _say(deployment: Deployment, as_json: bool) -> None:
    if as_json:
        print_json(deployment)
        return
    parts = [f"stable {deployment.stable or '-'}"]
    if deployment.canary is not None:
        parts.append(f"canary {deployment.canary} on {deployment.share:.4g}")
    if deployment.previous is not None:
        parts.append(f"previous {deployment.previous}")
    if deployment.holdback is not None:
        parts.append(f"holdback {deployment.holdback} on {deployment.holdback_share:.4g}")
    click.echo(f"{deployment.domain}: {', '.join(parts)} (epoch {deployment.epoch})")


@prompts.command()
@click.argument("domain")
@click.argument("number", type=int)
@why_option
@epoch_option
@json_option
@click.pass_context
def promote(ctx: click.Context, domain: str, number: int, why: str, if_epoch: int | None, as_json: bool) -> None:
    """Version NUMBER becomes what everybody gets."""
    _say(run(ctx, lambda r: r.promote(domain, number, actor=actor(), why=why, if_epoch=if_epoch)), as_json)


@prompts.command()
@click.argument("domain")
@click.argument("number", type=int)
@click.option("--share", type=float, required=True, help="Share of the traffic, above 0 and at most 0.5.")
@why_option
@epoch_option
@json_option
@click.pass_context
def canary(
    ctx: click.Context, domain: str, number: int, share: float, why: str, if_epoch: int | None, as_json: bool
) -> None:
    """Version NUMBER gets a share of the traffic, beside a control of the same size."""
    _say(run(ctx, lambda r: r.canary(domain, number, share, actor=actor(), why=why, if_epoch=if_epoch)), as_json)


@prompts.command()
@click.argument("domain")
@why_option
@epoch_option
@json_option
@click.pass_context
def rollback(ctx: click.Context, domain: str, why: str, if_epoch: int | None, as_json: bool) -> None:
    """Back to what was stable before."""
    _say(run(ctx, lambda r: r.rollback(domain, actor=actor(), why=why, if_epoch=if_epoch)), as_json)


@prompts.command()
@click.argument("domain")
@why_option
@epoch_option
@json_option
@click.pass_context
def abort(ctx: click.Context, domain: str, why: str, if_epoch: int | None, as_json: bool) -> None:
    """End the canary without promoting it."""
    _say(run(ctx, lambda r: r.abort(domain, actor=actor(), why=why, if_epoch=if_epoch)), as_json)


@prompts.command()
@click.argument("domain")
@click.argument("number", type=int)
@click.option("--why", required=True, help="The reason; it stands with the version.")
@json_option
@click.pass_context
def block(ctx: click.Context, domain: str, number: int, why: str, as_json: bool) -> None:
    """Version NUMBER may never be served again."""
    run(ctx, lambda r: r.block_version(domain, number, why, actor()))
    if as_json:
        print_json({"domain": domain, "version": number, "blocked": why})
    else:
        click.echo(f"Version {number} of {domain} is blocked.")


@prompts.command()
@click.argument("domain")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many entries.")
@click.option("--before", type=int, help="Entries before this number.")
@click.option("--all", "everything", is_flag=True, help="Also what moved no pointer: versions added, rules changed.")
@json_option
@click.pass_context
def history(ctx: click.Context, domain: str, limit: int, before: int | None, everything: bool, as_json: bool) -> None:
    """Who moved which pointer of DOMAIN, when and why; newest first."""

    async def story(registry: Registry) -> list[AuditEntry]:
        entries = await registry.history(domain, limit, before, moves_only=not everything)
        if not entries:
            await _was_there(registry, domain)
        return entries

    entries = run(ctx, story)
    if as_json:
        print_json(entries)
        return
    rows = [
        (
            entry.seq,
            moment(entry.at),
            entry.actor,
            entry.kind,
            "; ".join(part for part in (lifecycle.describe(entry.before, entry.after), entry.why) if part),
        )
        for entry in entries
    ]
    click.echo(table(("N", "WHEN", "WHO", "WHAT", "MOVE; WHY"), rows, wide=4))


async def _was_there(registry: Registry, domain: str) -> None:
    """Raises NotFound for a name that is no domain and never was one; a deleted domain keeps its audit."""
    if not await registry.history(domain, 1):
        await registry.get_domain(domain)


@prompts.command("served-at")
@click.argument("domain")
@click.argument("when")
@json_option
@click.pass_context
def served_at(ctx: click.Context, domain: str, when: str, as_json: bool) -> None:
    """What served DOMAIN at a time, like 2026-11-20T14:00 (UTC)."""

    async def story(registry: Registry) -> Deployment:
        await _was_there(registry, domain)
        return await registry.served_at(domain, parse_moment(when))

    _say(run(ctx, story), as_json)
