"""``metaspo samples ...``: what was kept of the traffic, and a person's right to be forgotten."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import msgspec

from registry.cli_session import json_option, moment, print_json, run, table, whole
from registry.records import Sample

if TYPE_CHECKING:
    from registry.registry import Registry


@click.group()
def samples() -> None:
    """Scrubbed exchanges kept for learning."""


_filters = [
    click.option("--task", help="Of this task only."),
    click.option("--reservoir", type=click.Choice(["representative", "failures"]), help="Of this reservoir only."),
    click.option("--unscored", is_flag=True, help="Only those without a score."),
    click.option("--version", type=int, help="Only those that this version answered."),
    click.option("--limit", type=click.IntRange(1), default=None, help="At most so many, newest first."),
]


def _filtered(command: Any) -> Any:
    for option in reversed(_filters):
        command = option(command)
    return command


def _find(ctx: click.Context, domain: str, limit: int, more: dict[str, Any]) -> list[Sample]:
    async def story(registry: Registry) -> list[Sample]:
        await registry.get_domain(domain)
        return await registry.samples(
            domain,
            task=more["task"],
            reservoir=more["reservoir"],
            unscored_only=more["unscored"],
            version=more["version"],
            limit=limit,
        )

    return run(ctx, story)


@samples.command("list")
@click.argument("domain")
@_filtered
@json_option
@click.pass_context
def list_samples(ctx: click.Context, /, domain: str, limit: int | None, as_json: bool, **more: Any) -> None:
    """What was kept of DOMAIN's traffic, newest first."""
    found = _find(ctx, domain, limit or 20, more)
    if as_json:
        print_json(found)
        return
    rows = [
        (moment(s.at), s.task, s.version, s.arm, s.score, s.messages[-1].content if s.messages else "") for s in found
    ]
    click.echo(table(("WHEN", "TASK", "VERSION", "ARM", "SCORE", "QUESTION"), rows, wide=5))


@samples.command("export")
@click.argument("domain")
@click.option("--format", "form", type=click.Choice(["jsonl", "parquet"]), default="jsonl", show_default=True)
@click.option("--file", "path", type=click.Path(path_type=Path), help="Write here instead of to standard output.")
@_filtered
@click.pass_context
def export_samples(
    ctx: click.Context, /, domain: str, form: str, path: Path | None, limit: int | None, **more: Any
) -> None:
    """DOMAIN's samples as JSON lines or Parquet."""
    if form == "parquet":
        parquet = _parquet_writer()
    found = _find(ctx, domain, limit or 10_000_000, more)
    with _output(path) as file:
        if form == "parquet":
            parquet(found, file)
        else:
            file.writelines(msgspec.json.encode(whole(sample)) + b"\n" for sample in found)


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdout.buffer
        return
    try:
        with path.open("wb") as file:
            yield file
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}.") from error


def _parquet_writer() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise click.ClickException(
            "Parquet needs pyarrow, which is not installed:"
            " pip install 'metaspo-gateway[parquet]', or use --format jsonl."
        ) from error

    def write(found: list[Sample], file: BinaryIO) -> None:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([whole(sample) for sample in found]), file)

    return write


@samples.command("erase")
@click.option("--key", help="Id or name of the gateway key (the app).")
@click.option("--unit", help="The user or conversation.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def erase_samples(ctx: click.Context, key: str | None, unit: str | None, yes: bool, as_json: bool) -> None:
    """Remove what a person left behind, and name what was learned from it."""
    if not key and not unit:
        raise click.UsageError("Say whose data: --key, --unit, or both.")
    if not yes:
        whose = " and ".join(f"{name} {value}" for name, value in (("key", key), ("unit", unit)) if value)
        click.confirm(f"Remove every sample of {whose}, and datasets that hold one?", abort=True)

    async def story(registry: Registry) -> tuple[Any, bool]:
        named = {name: record.id for record in await registry.list_keys() for name in (record.name, record.id)}
        return await registry.erase(named.get(key, key) if key else None, unit), key in named

    report, known = run(ctx, story)
    if as_json:
        print_json(report)
        return
    if key and not known:
        click.echo(f"No key is named {key}: its samples, if any, would carry the id that the key had.", err=True)
    click.echo(
        f"Removed: {report.samples} samples, {report.outcomes} outcomes, {report.votes} votes,"
        f" {len(report.datasets)} datasets."
    )
    for domain, number in report.versions:
        click.echo(f"Version {number} of {domain} was learned from removed data: look at it, block it if need be.")
