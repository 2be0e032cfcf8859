"""``metaspo prompts export`` and ``import``: versions as files, for git and from other tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli_session import actor, json_option, print_json, run, why_option
from registry.errors import NotFound, Refused
from registry.records import Domain
from registry.redis_keys import domain_name

if TYPE_CHECKING:
    from registry.prompt_files import ImportedPrompt
    from registry.registry import Registry


def read_text(path: Path) -> str:
    """The text of a file, or of standard input for ``-``. Raises ClickException."""
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise click.ClickException(f"There is no file {path}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(
            f"{path} cannot be read as text: {getattr(error, 'strerror', None) or error}."
        ) from error


@click.command("export")
@click.argument("domain")
@click.option("--file", "path", type=click.Path(path_type=Path), help="Write here instead of to standard output.")
@click.pass_context
def export(ctx: click.Context, domain: str, path: Path | None) -> None:
    """All versions of DOMAIN as YAML, made for git."""

    from registry.prompt_files import export_yaml

    async def story(registry: Registry) -> str:
        return export_yaml(domain, await registry.list_versions(domain), await registry.deployment(domain))

    text = run(ctx, story)
    if path is None:
        click.echo(text, nl=False)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}.") from error


@click.command("import")
@click.argument("path", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--domain", help="Where to, instead of where the file says.")
@click.option("--promote", "promoted", is_flag=True, help="Promote what the file marks as stable (or production).")
@click.option("--check", "only_check", is_flag=True, help="Write nothing: say what the import would do.")
@why_option
@json_option
@click.pass_context
def import_(
    ctx: click.Context,
    path: Path,
    domain: str | None,
    promoted: bool,
    only_check: bool,
    why: str,
    as_json: bool,
) -> None:
    """Versions from our YAML, a Langfuse prompt export, or MLflow model versions (as its REST API lists them).

    With --check a file that cannot be imported ends with exit code 1, and nothing is written: for CI, before the merge.
    """
    from registry.prompt_files import read_prompts

    text = read_text(path)

    async def story(registry: Registry) -> list[dict[str, Any]]:
        found = read_prompts(text, path.name if str(path) != "-" else "standard input")
        if only_check:
            return [await _would_import(registry, prompt, domain or prompt.domain, promoted) for prompt in found]
        return [await _import_one(registry, prompt, domain or prompt.domain, promoted, why) for prompt in found]

    done = run(ctx, story, signing=not only_check)
    if as_json:
        print_json(done)
        return
    for one in done:
        number = f"version {one['version']}" if one["version"] is not None else "a new version"
        click.echo(
            f"{one['domain']}: {number}{', new' if one['new'] and one['version'] else ''}"
            f"{', stable' if one['promoted'] else ''}"
        )
    if promoted and not any(one["promoted"] for one in done):
        click.echo("Nothing is promoted: the file marks no version as stable.", err=True)


async def _would_import(
    registry: Registry, prompt: ImportedPrompt, domain: str | None, promoted: bool
) -> dict[str, Any]:
    """What ``_import_one`` would answer; ``version`` is None for a text that is new here."""
    number = await _number_of(registry, prompt, _named(domain))
    return {"domain": domain, "version": number, "new": number is None, "promoted": promoted and prompt.stable}


def _named(domain: str | None) -> str:
    if domain is None:
        raise Refused("The file does not say which domain it is for: say --domain.")
    return domain_name(domain)


async def _number_of(registry: Registry, prompt: ImportedPrompt, domain: str) -> int | None:
    """The number that this text has here already."""
    from registry.signing import content_hash

    digest = content_hash(prompt.system_prompt)
    return next((version.number for version in await registry.list_versions(domain) if version.hash == digest), None)


async def _import_one(
    registry: Registry, prompt: ImportedPrompt, domain: str | None, promoted: bool, why: str
) -> dict[str, Any]:
    domain = _named(domain)
    try:
        await registry.get_domain(domain)
    except NotFound:
        await registry.put_domain(Domain(name=domain), actor=actor(), why=why or "import")
    known = await _number_of(registry, prompt, domain)
    version = await registry.add_version(domain, prompt.system_prompt, lineage=prompt.lineage)
    if prompt.blocked and not (await registry.get_version(domain, version.number)).blocked:
        await registry.block_version(domain, version.number, prompt.blocked, actor())
    if promoted and prompt.stable:
        await registry.promote(domain, version.number, actor=actor(), why=why or "import")
    done = promoted and prompt.stable
    return {"domain": domain, "version": version.number, "new": known is None, "promoted": done}
