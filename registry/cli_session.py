"""What all commands of the registry share: which registry is meant, how results are shown, how errors are said.

The registry itself, with Redis and the settings' models behind it, is imported when a command runs: help is answered
at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from registry.errors import Refused, RegistryError

if TYPE_CHECKING:
    from registry.embedded import EmbeddedRedis
    from registry.registry import Registry
    from registry.settings import Settings

T = TypeVar("T")


def settings_of(ctx: click.Context) -> Settings:
    """The settings of this invocation: ``ctx.obj["config"]``, else METASPO_CONFIG, else ``metaspo.yaml`` when it is
    here.

    Secrets of providers are not needed by any command here, so they may be missing. Raises SettingsError.
    """
    from registry.settings import load_settings

    path = (ctx.obj or {}).get("config") if isinstance(ctx.obj, dict | None) else getattr(ctx.obj, "config", None)
    if path is None and os.environ.get("METASPO_CONFIG"):
        path = Path(os.environ["METASPO_CONFIG"])
    if path is None and Path("metaspo.yaml").exists():
        path = Path("metaspo.yaml")
    return load_settings(path, require_secrets=False)


@contextlib.asynccontextmanager
async def open_registry(
    settings: Settings, *, signing: bool = False, as_it_is: bool = False
) -> AsyncIterator[Registry]:
    """The configured Redis; else the embedded one that runs on this home; else one started for the duration, which
    then learns what the config file says, as at every start (not when ``as_it_is``).
    """
    from registry.embedded import EmbeddedRedis, running_url
    from registry.registry import Registry
    from registry.signing import Signer

    own: EmbeddedRedis | None = None
    learns = False
    url = settings.redis_url or running_url(settings.home)
    if url is None:
        own = await asyncio.to_thread(EmbeddedRedis.start, settings.home)
        url = own.url
        learns = not as_it_is
    try:
        signer = None
        if signing or learns or settings.signing_key_path.exists():
            signer = Signer.load_or_create(settings.signing_key_path)
        registry = await Registry.from_settings(settings, url, signer=signer)
        try:
            if learns:
                await _sync(registry, settings)
            yield registry
        finally:
            await registry.close()
    finally:
        if own is not None:
            await asyncio.to_thread(own.stop)


async def _sync(registry: Registry, settings: Settings) -> None:
    """A server that was started for one command has not seen the config file yet, or not as it is now."""
    try:
        await registry.sync_settings(settings)
    except RegistryError as error:
        click.echo(f"The config file was not taken over: {error}", err=True)


def run(
    ctx: click.Context, story: Callable[[Registry], Awaitable[T]], *, signing: bool = False, as_it_is: bool = False
) -> T:
    """Run ``story`` on the registry. Our errors become one sentence and exit code 1."""

    async def inside() -> T:
        async with open_registry(settings_of(ctx), signing=signing, as_it_is=as_it_is) as registry:
            return await story(registry)

    try:
        return asyncio.run(inside())
    except RegistryError as error:
        raise click.ClickException(str(error)) from error


def actor() -> str:
    """Who the audit says did it."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "somebody"
    return f"{name} (command line)"


# --- showing ---------------------------------------------------------------------------------------------------------


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
why_option = click.option("--why", default="", help="The reason; it goes to the audit.")
epoch_option = click.option("--if-epoch", type=int, help="Refuse when the pointers are no longer at this epoch.")


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(msgspec.json.format(msgspec.json.encode(whole(value)), indent=2).decode())


def whole(value: Any) -> Any:
    """Records as maps with every field, also those that have their default (which the stored form leaves out)."""
    if isinstance(value, msgspec.Struct):
        return {field: whole(getattr(value, field)) for field in value.__struct_fields__}
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [whole(item) for item in value]
    return value


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left on a terminal, nothing elsewhere; call what it yields with (done, of all)."""
    if not sys.stderr.isatty():
        yield lambda done, total: None  # noqa: ARG005
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left")
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield told


LEAST = 8
"""Columns that a shortened cell keeps."""


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], *, wide: int) -> str:
    """A table that fits the terminal (80 columns where there is none).

    The column ``wide`` gives way first, then the widest of the others. The first column names the row and is never cut:
    a name that leaves no room for the rest stands on a line of its own.
    """
    columns = min(shutil.get_terminal_size((80, 24)).columns, 160) if sys.stdout.isatty() else 80
    lines = [list(headers), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]

    def over() -> int:
        return sum(widths) + 2 * (len(widths) - 1) - columns

    for i in (wide, *sorted(range(1, len(widths)), key=lambda i: -widths[i])):
        if over() > 0 and i != 0:
            widths[i] = min(widths[i], max(LEAST, len(headers[i]), widths[i] - over()))
    widths[0] -= max(0, over())
    return "\n".join(text for line in lines for text in _lines(line, widths))


def _lines(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    """A row as one line, or as two where its name is longer than the first column."""
    named = line[0] if len(line[0]) <= widths[0] else ""
    shown = [f"{named:<{widths[0]}}", *(_fitted(text, width) for text, width in zip(line[1:], widths[1:], strict=True))]
    return [*([] if named == line[0] else [line[0]]), "  ".join(shown).rstrip()]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    return " ".join(str(value).split())


def _fitted(text: str, width: int) -> str:
    return (text if len(text) <= width else text[: width - 1] + "…").ljust(width)


def moment(at: float | None) -> str:
    """A time for people, UTC."""
    return "-" if not at else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def parse_moment(text: str) -> float:
    """Seconds since the epoch from ISO 8601 (UTC when no zone is named) or a number. Raises Refused."""
    with contextlib.suppress(ValueError):
        return float(text)
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused(f"{text!r} is not a time: write it like 2026-11-20T14:00.") from error
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
