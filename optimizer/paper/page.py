"""The report: tables as Markdown, CSV and JSON, figures as SVG."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from optimizer.estimate import Range
from optimizer.paper.beside import as_published as quirky_tables
from optimizer.paper.beside import beside_published
from optimizer.paper.estimate import CellEstimate, Pace
from optimizer.paper.figures import figures
from optimizer.paper.keeping import Ledger
from optimizer.paper.paired import paired
from optimizer.paper.raw import FoundPrompt, RawRow
from optimizer.paper.shown import Shown, Table, Value, label_of
from optimizer.paper.tables import tables

_COUNTS = {"domains", "runs", "base calls", "evaluations asked", "optimizer calls", "seconds", "prompt tokens",
           "user prompts"}  # fmt: skip


def all_tables(rows: Sequence[RawRow], *, as_published: bool = False) -> dict[str, list[Table]]:
    """Every table that the rows can fill, by protocol: results of different sizes are never averaged."""
    made = {}
    for protocol in dict.fromkeys(row.protocol for row in rows):
        part = [row for row in rows if row.protocol == protocol]
        pairs = [paired(part, role) for role in ("unseen", "source")]
        made[protocol] = [
            *tables(part),
            *(table for table in pairs if table.rows),
            *beside_published(part),
            *(quirky_tables(part) if as_published else []),
        ]
    return made


def report_page(
    rows: Sequence[RawRow],
    prompts: Sequence[FoundPrompt] = (),
    *,
    as_published: bool = False,
    ledger: Ledger | None = None,
) -> str:
    """The report as Markdown, with what it cost where ``ledger`` is known."""
    cost = ["", ledger_page(ledger)] if ledger is not None else []
    return "\n".join([*_page(rows, prompts, as_published), *cost]) + "\n"


def report_dict(rows: Sequence[RawRow], *, as_published: bool = False, ledger: Ledger | None = None) -> dict[str, Any]:
    """The report as plain JSON values: scores are 0..1."""
    made = all_tables(rows, as_published=as_published)
    told = {"about": _about(rows), "tables": {name: msgspec.to_builtins(found) for name, found in made.items()}}
    return told if ledger is None else {**told, "ledger": msgspec.to_builtins(ledger)}


def write_report(
    folder: Path,
    rows: Sequence[RawRow],
    prompts: Sequence[FoundPrompt] = (),
    *,
    as_published: bool = False,
    ledger: Ledger | None = None,
) -> list[Path]:
    """Write report.md, report.json, one CSV per table and the figures into ``folder``; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = all_figures(rows)
    page = report_page(rows, prompts, as_published=as_published, ledger=ledger)
    page += "".join(f"\n![{name.replace('_', ' ')}]({name}.svg)\n" for name in drawn)
    encoded = msgspec.json.format(msgspec.json.encode(report_dict(rows, as_published=as_published, ledger=ledger)))
    files = {"report.md": page, "report.json": encoded.decode() + "\n"}
    made = all_tables(rows, as_published=as_published)
    for protocol, found in made.items():
        prefix = f"{protocol}_" if len(made) > 1 else ""
        files |= {f"{prefix}{table.name}.csv": _csv(table) for table in found}
    files |= {f"{name}.svg": text for name, text in drawn.items()}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def all_figures(rows: Sequence[RawRow]) -> dict[str, str]:
    """Every figure that the rows can fill, by name, with the protocol's name before it where there are several."""
    protocols = list(dict.fromkeys(row.protocol for row in rows))
    drawn: dict[str, str] = {}
    for protocol in protocols:
        prefix = f"{protocol}_" if len(protocols) > 1 else ""
        part = [row for row in rows if row.protocol == protocol]
        drawn |= {f"{prefix}{name}": svg for name, svg in figures(part).items()}
    return drawn


def markdown(table: Table) -> str:
    """One table with its title and its note."""
    lines = [f"### {table.title}", "", "| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    for row in table.rows:
        cells = [_text(value, column) for value, column in zip(row, table.columns, strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(["", table.note] if table.note else [])])


def prompts_page(prompts: Sequence[FoundPrompt], rows: Sequence[RawRow]) -> str:
    """The system prompts behind the rows, as they were found; equal ones are shown once."""
    used = {row.prompt_sha256 for row in rows}
    lines, shown = ["### The prompts"], set()
    for found in prompts:
        if found.sha256 not in used:
            continue
        head = f"**{label_of(found.method, found.scope)}**, {found.domain}, seed {found.seed}. {found.reason}"
        lines += ["", head]
        if found.sha256 not in shown:
            lines += ["", *(f"    {line}" for line in (found.prompt or "(empty)").splitlines())]
        else:
            lines[-1] += " The same prompt as above."
        shown.add(found.sha256)
    return "\n".join(lines)


def ledger_page(ledger: Ledger) -> str:
    """What the run of these results was paid for, role by role, and the cells that it left out, with the reason."""
    lines = [
        "### The ledger",
        "",
        f"{ledger.finished:,} of {ledger.cells:,} cells are finished in {ledger.seconds:,.0f} s "
        f"({ledger.seconds / 3600:.1f} hours); for these at most {ledger.estimated_calls:,} calls were foreseen. "
        f"Paid for in this home, unfinished cells included: {ledger.calls:,} calls.",
    ]
    if ledger.roles:
        lines += ["", "| role | calls | tokens in | tokens out | USD |", "|---|---|---|---|---|"]
    for role, spent in ledger.roles.items():
        counted = (spent.tokens_in, spent.tokens_out)
        tokens = " | ".join(f"{number:,}" if any(counted) else "-" for number in counted)
        usd = "-" if spent.usd is None else f"{spent.usd:,.2f}"
        lines.append(f"| {role.replace('_', ' ')} | {spent.calls:,} | {tokens} | {usd} |")
    if ledger.left_out:
        lines += ["", f"Left out, {len(ledger.left_out):,} of the finished cells:", ""]
        lines += [f"- {title}: {why}" for title, why in ledger.left_out.items()]
    return "\n".join(lines)


def estimate_page(rows: Sequence[tuple[str, CellEstimate]], pace: Pace | None, usd: Range | None) -> str:
    """The most calls of every cell by role, USD, and hours at ``pace``."""
    head = f"{'cell':56} {'search':>9} {'measuring':>9} {'optimizer':>9} {'judge':>9}" + (
        f" {'hours':>7}" if pace else ""
    )
    lines = [head]
    for title, found in rows:
        line = f"{title:56} {found.search_base:>9,} {found.measuring:>9,} {found.search_optimizer:>9,}"
        lines.append(
            f"{line} {found.judging:>9,}" + (f" {found.seconds(pace) / 3600:>7.2f}" if pace is not None else "")
        )
    every = [found for _, found in rows]
    total = f"{sum(found.calls for found in every):,} calls at most"
    if pace:
        total += f", {sum(found.seconds(pace) for found in every) / 3600:.1f} hours at this pace"
    total += f", {usd.low:.2f} to {usd.high:.2f} USD" if usd else ", price unknown (give price_in and price_out)"
    told = (
        f"By role at most {sum(found.base for found in every):,} base (search and measuring), "
        f"{sum(found.search_optimizer for found in every):,} optimizer and "
        f"{sum(found.judging for found in every):,} judge calls; a budget may keep their sum below this."
    )
    if any(", gepa," in title for title, _ in rows):
        told += " GEPA may ask for as many evaluations as our search did, repeats among them: typically budget_calls."
    return "\n".join(
        [*lines, "", f"{total}. Requests that repeat (fixed prompts of further seeds) cost nothing.", told]
    )


def _page(rows: Sequence[RawRow], prompts: Sequence[FoundPrompt], quirky: bool) -> Iterator[str]:
    for protocol, made in all_tables(rows, as_published=quirky).items():
        about = _about([row for row in rows if row.protocol == protocol])
        yield f"## Protocol {protocol}"
        yield ""
        yield (
            f"Base {', '.join(about['base_models'])}; optimizer {', '.join(about['optimizer_models']) or 'none'}; "
            f"seeds {', '.join(map(str, about['seeds']))}; {about['rows']} raw rows."
        )
        for table in made:
            yield ""
            yield markdown(table)
        yield ""
    if prompts:
        yield prompts_page(prompts, rows)


def _about(rows: Sequence[RawRow]) -> dict[str, Any]:
    return {
        "protocols": sorted({row.protocol for row in rows}),
        "base_models": sorted({row.base_model for row in rows}),
        "optimizer_models": sorted({row.optimizer_model for row in rows if row.optimizer_model}),
        "seeds": sorted({row.seed for row in rows}),
        "rows": len(rows),
    }


def _text(value: Value, column: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, Shown):
        seeds = f", {value.seeds} seeds" if value.seeds > 1 else ""
        bounds = "" if value.low is None or value.high is None else f" [{100 * value.low:.1f}, {100 * value.high:.1f}]"
        return f"{100 * value.score:.1f}{bounds} (n={value.n}{seeds})"
    if isinstance(value, str):
        return value.replace("|", "\\|")
    return f"{value:,.0f}" if column in _COUNTS else f"{100 * value:.1f}"


def _csv(table: Table) -> str:
    """A row per cell of the table: everything a score has, in columns of its own."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("row", "column", "value", "low", "high", "n", "seeds"))
    for row in table.rows:
        for column, value in zip(table.columns[1:], row[1:], strict=True):
            if isinstance(value, Shown):
                writer.writerow((row[0], column, value.score, value.low, value.high, value.n, value.seeds))
            else:
                writer.writerow((row[0], column, value, None, None, None, None))
    return out.getvalue()
