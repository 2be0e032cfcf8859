"""``metaspo backup`` and ``metaspo restore``: the registry as one file."""

from __future__ import annotations

from pathlib import Path

import click

from registry.cli_session import json_option, print_json, progress, run


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@click.pass_context
def backup(ctx: click.Context, path: Path, as_json: bool) -> None:
    """Write everything to one checksummed file; the registry goes on working meanwhile."""
    with progress("values") as told:
        count = run(ctx, lambda r: r.backup(path, told=told))
    size = path.stat().st_size
    if as_json:
        print_json({"keys": count, "file": str(path), "bytes": size})
    else:
        click.echo(f"{count:,} keys are in {path} ({size:,} bytes). Keep the signing key with it, elsewhere.")


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--overwrite", is_flag=True, help="Replace the registry that is here.")
@json_option
@click.pass_context
def restore(ctx: click.Context, path: Path, overwrite: bool, as_json: bool) -> None:
    """Read everything back. A damaged file is refused before anything is written."""
    with progress("values") as told:
        count = run(ctx, lambda r: r.restore(path, overwrite=overwrite, told=told), as_it_is=True)
    if as_json:
        print_json({"keys": count, "file": str(path)})
    else:
        click.echo(f"{count:,} keys are restored from {path}.")
