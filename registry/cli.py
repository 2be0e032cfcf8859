"""Command groups of the registry: ``domains``, ``prompts``, ``samples``, ``keys``, ``backup``, ``restore``.

Each works on the configured Redis, else on the embedded one that runs on this home, else on one started for the
duration.
"""

from __future__ import annotations

import base64
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from registry.acl import CONTROL_USER, DATA_PLANE_USER, acl_file
from registry.cli_backup import backup, restore
from registry.cli_prompts import prompts
from registry.cli_samples import samples
from registry.cli_session import (
    actor,
    json_option,
    moment,
    print_json,
    run,
    settings_of,
    table,
    whole,
    why_option,
)
from registry.errors import Corrupt, NotFound, Refused, SettingsError
from registry.records import GLOBAL, Deployment, Domain

if TYPE_CHECKING:
    from registry.registry import Registry
    from registry.rotation import Rotation

__all__ = ["backup", "domains", "keys", "prompts", "restore", "samples"]


@click.group()
def domains() -> None:
    """Domains: families of tasks that share one system prompt."""


@domains.command("list")
@json_option
@click.pass_context
def list_domains(ctx: click.Context, as_json: bool) -> None:
    """All domains with what is live."""

    async def story(registry: Registry) -> list[tuple[Domain, Deployment]]:
        found = []
        for domain in await registry.list_domains():
            try:
                found.append((domain, await registry.deployment(domain.name)))
            except Corrupt as error:
                click.echo(f"{error} `metaspo doctor` says more.", err=True)
        return found

    found = run(ctx, story)
    if as_json:
        print_json([{"domain": domain, "deployment": live} for domain, live in found])
        return
    rows = [
        (d.name, live.stable, live.canary, live.share or None, d.inject, d.promotion, ", ".join(d.tasks))
        for d, live in found
    ]
    click.echo(table(("DOMAIN", "STABLE", "CANARY", "SHARE", "INJECT", "PROMOTION", "TASKS"), rows, wide=6))


@domains.command("show")
@click.argument("name")
@json_option
@click.pass_context
def show_domain(ctx: click.Context, name: str, as_json: bool) -> None:
    """The rules of domain NAME, its tasks and pointers."""

    async def story(registry: Registry) -> tuple[Domain, Deployment]:
        return await registry.get_domain(name), await registry.deployment(name)

    domain, live = run(ctx, story)
    if as_json:
        print_json({"domain": domain, "deployment": live})
        return
    import yaml

    rules = whole(domain)
    rules.pop("locked_signature")
    shown = {key: value for key, value in rules.items() if value not in (None, "", [], {}, ())}
    shown["deployment"] = {key: value for key, value in whole(live).items() if value and key != "domain"}
    click.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=78), nl=False)


@domains.command("set")
@click.argument("name")
@click.argument("rules", nargs=-1)
@click.option("--file", "path", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Rules as YAML.")
@why_option
@json_option
@click.pass_context
def set_domain(
    ctx: click.Context, name: str, rules: tuple[str, ...], path: Path | None, why: str, as_json: bool
) -> None:
    """Make domain NAME or change its RULES, like inject=append sample.share=0.1 'tasks={triage: {}}'.

    The names are those of the config file's `domains` section.
    """
    changes = _changes(rules, path)

    async def story(registry: Registry) -> Domain:
        try:
            old = await registry.get_domain(name)
        except NotFound:
            old = Domain(name=name, parent=None if name == GLOBAL else GLOBAL)
        if old.read_only:
            raise Refused(f"The config file says what {name} is: change it there (it wins at every start).")
        domain = _with_changes(old, changes)
        await registry.put_domain(domain, actor=actor(), why=why)
        return domain

    domain = run(ctx, story, signing=True)
    if as_json:
        print_json(domain)
    else:
        click.echo(f"Domain {domain.name} is set.")


def _changes(rules: tuple[str, ...], path: Path | None) -> dict[str, Any]:
    import yaml

    changes: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise click.ClickException(f"{path} cannot be read as YAML: {str(error).splitlines()[0]}.") from error
        if not isinstance(loaded, dict):
            raise click.ClickException(f"{path} must hold rules by name.")
        changes |= loaded
    for rule in rules:
        names, equals, text = rule.partition("=")
        if not equals:
            raise click.UsageError(f"{rule!r} is not NAME=VALUE.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise click.UsageError(f"The value of {names} is not YAML: {text[:60]!r}.") from error
        place = changes
        *above, last = names.split(".")
        for part in above:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise click.UsageError(f"{names} names a part of {part}, which was given a value of its own.")
        place[last] = value
    return changes


def _with_changes(old: Domain, changes: dict[str, Any]) -> Domain:
    from pydantic import ValidationError

    from registry.settings import DomainSettings
    from registry.settings_sources import merge, sentence

    current = msgspec.to_builtins(old)
    for name in ("name", "read_only", "locked_signature"):
        current.pop(name, None)
    try:
        settings = DomainSettings.model_validate(merge(current, changes))
    except ValidationError as error:
        raise SettingsError(f"{old.name}: {sentence(error, DomainSettings)}") from error
    if settings.system_prompt is not None:
        raise Refused("A system prompt is a version: add it with `metaspo prompts add`.")
    return msgspec.structs.replace(settings.record(old.name), read_only=False)


@domains.command("delete")
@click.argument("name")
@why_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def delete_domain(ctx: click.Context, name: str, why: str, yes: bool, as_json: bool) -> None:
    """Take NAME out of service and remove its samples; versions and audit stay."""
    if not yes:
        click.confirm(f"Take {name} out of service and remove its samples and datasets?", abort=True)
    run(ctx, lambda r: r.delete_domain(name, actor(), why))
    if as_json:
        print_json({"deleted": name})
    else:
        click.echo(f"{name} is out of service.")


# --- keys ------------------------------------------------------------------------------------------------------------


@click.group()
def keys() -> None:
    """Gateway keys: shown once, stored hashed."""


@keys.command("create")
@click.option("--role", type=click.Choice(["caller", "operator", "viewer"]), required=True)
@click.option("--name", required=True, help="The app or person.")
@click.option("--domain", help="Domain of its traffic when a request names none.")
@click.option("--requests-per-minute", type=click.IntRange(1))
@click.option("--tokens-per-minute", type=click.IntRange(1))
@click.option("--parallel", type=click.IntRange(1))
@click.option("--usd-per-day", type=click.FloatRange(0))
@json_option
@click.pass_context
def create_key(ctx: click.Context, /, role: Any, name: str, domain: str | None, as_json: bool, **limits: Any) -> None:
    """A new key. Its text is shown now and never again."""
    given = {limit: value for limit, value in limits.items() if value is not None}
    record, text = run(ctx, lambda r: r.create_key(name, role, domain, actor=actor(), **given))
    if as_json:
        print_json({"id": record.id, "name": record.name, "role": record.role, "key": text})
        return
    click.echo(text)
    click.echo(f"This is the {role} key {record.id} of {name}. It is not shown again.", err=True)


@keys.command("list")
@json_option
@click.pass_context
def list_keys(ctx: click.Context, as_json: bool) -> None:
    """All keys; never their text."""
    found = run(ctx, lambda r: r.list_keys())
    if as_json:
        print_json([{field: value for field, value in whole(key).items() if field != "hash"} for key in found])
        return
    rows = [
        (
            key.id,
            key.role,
            key.domain,
            "revoked" if key.revoked_at else "config file" if key.from_file else "live",
            moment(key.created_at)[:10],
            key.name,
        )
        for key in found
    ]
    click.echo(table(("ID", "ROLE", "DOMAIN", "STATE", "MADE", "NAME"), rows, wide=5))


@keys.command("revoke")
@click.argument("key")
@why_option
@json_option
@click.pass_context
def revoke_key(ctx: click.Context, key: str, why: str, as_json: bool) -> None:
    """KEY (its id or name) stops working within a second."""
    record = run(ctx, lambda r: r.revoke_key(key, actor(), why))
    if as_json:
        print_json({"id": record.id, "name": record.name, "revoked_at": record.revoked_at})
    else:
        click.echo(f"The key {record.id} of {record.name} is revoked.")
    if record.from_file:
        click.echo("The config file names it: take it out there too, or the next start brings it back.", err=True)


@keys.command("acl")
@click.option("--gateway-password", envvar="METASPO_REDIS_GATEWAY_PASSWORD", help="Absent: a random one.")
@click.option("--control-password", envvar="METASPO_REDIS_CONTROL_PASSWORD", help="Absent: a random one.")
@click.pass_context
def acl(ctx: click.Context, gateway_password: str | None, control_password: str | None) -> None:
    """Print an ACL file for Redis 7 or Valkey: a data-plane user that cannot write versions, and a control user."""
    passwords = {
        DATA_PLANE_USER: gateway_password or secrets.token_urlsafe(24),
        CONTROL_USER: control_password or secrets.token_urlsafe(24),
    }
    try:
        prefix = settings_of(ctx).redis_prefix
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    click.echo(acl_file(passwords, prefix), nl=False)
    for user, given in ((DATA_PLANE_USER, gateway_password), (CONTROL_USER, control_password)):
        if given is None:
            click.echo(f"Password of {user}: {passwords[user]} (not shown again)", err=True)


@keys.command("signing-key")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def signing_key(path: Path, as_json: bool) -> None:
    """Make a signing key in the file PATH (mode 0600) and its public half beside it as .pub."""
    for file in (path, path.with_suffix(".pub")):
        if file.exists():
            raise click.ClickException(
                f"{file} exists already: a key that has signed must not be lost. Choose another."
            )
    from registry.signing import Signer

    try:
        signer = Signer.load_or_create(path)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    public = base64.b64encode(signer.public).decode()
    if as_json:
        about = {"file": str(path), "public_file": str(path.with_suffix(".pub"))}
        print_json({**about, "public": public, "fingerprint": signer.fingerprint})
        return
    click.echo(f"{path} is the private key {signer.fingerprint}, for the control plane and the jobs.")
    click.echo(f"{path.with_suffix('.pub')} is its public key, for the gateways (verify_key): {public}")


@keys.command("rotate")
@click.argument("new", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--old", help="Public key until now, base64 or a file; absent: that of the config file or of `home`.")
@why_option
@json_option
@click.pass_context
def rotate(ctx: click.Context, new: Path, old: str | None, why: str, as_json: bool) -> None:
    """Sign everything again with the signing key NEW; what the old key did not sign is named and left alone."""
    from registry.signing import Signer, load_public

    try:
        signer = Signer.load(new)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error

    async def story(registry: Registry) -> Rotation:
        settings = settings_of(ctx)
        public = load_public(old or settings.verify_key or str(settings.signing_key_path.with_suffix(".pub")))
        return await registry.rotate_signing_key(public, signer, actor=actor(), why=why)

    done = run(ctx, story)
    if as_json:
        print_json(done)
    else:
        click.echo(f"{done.signed} values are signed with the new key {signer.fingerprint}.")
        click.echo("Now put it and its .pub in place of the old ones (signing_key, verify_key) and restart.")
    for sentence in done.refused:
        click.echo(f"Left alone: {sentence}", err=True)
    if done.refused:
        ctx.exit(1)
