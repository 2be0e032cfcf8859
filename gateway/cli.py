"""``metaspo gateway``: the gateway alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from registry import Settings


@click.group()
def gateway() -> None:
    """The gateway alone: serve."""


@gateway.command()
@click.option(
    "--workers", type=click.IntRange(1, 256), help="Processes (default: `gateway.workers` of the config file)."
)
@click.pass_context
def serve(ctx: click.Context, workers: int | None) -> None:
    """Serve until SIGTERM or Ctrl-C; SIGHUP reads the config file again."""
    path = _config_path(ctx)

    def load() -> Settings:
        from registry import load_settings

        return load_settings(path)

    from gateway.errors import StartFailed
    from gateway.server import serve as run

    try:
        run(load(), workers, reload=load)
    except StartFailed as error:
        raise click.ClickException(str(error)) from None


def _config_path(ctx: click.Context) -> Path | None:
    root = ctx.find_root()
    found = root.params.get("config") or (root.obj or {}).get("config")
    return Path(found) if found is not None else None
