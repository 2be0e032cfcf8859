"""What a run keeps in its home: one file per finished cell, and made from them the raw results, the prompts and the
ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgspec
from msgspec.structs import replace

from optimizer.errors import DataError
from optimizer.methods.baselines import PROMPTS
from optimizer.models import price_of
from optimizer.paper.finding import Outcome
from optimizer.paper.measure import journal_spec
from optimizer.paper.protocol import GLOBAL, Cell, Protocol, sources_of, unseen_of
from optimizer.paper.raw import FoundPrompt, RawRow, earlier_rows, read_prompts, write_lines
from optimizer.paper.user_prompts import UserPrompts
from optimizer.records import ModelRole, Record, SearchTask
from optimizer.run.fingerprint import fingerprint
from optimizer.run.journal import Journal


class CellResult(Record, frozen=True, kw_only=True):
    """A finished cell as its file says. ``seconds`` are those of all its sessions, ``fresh_calls`` of the last one."""

    outcome: Outcome
    rows: tuple[RawRow, ...] = ()
    left_out: str = ""
    seconds: float = 0.0
    fresh_calls: int = 0


class Spent(Record, frozen=True, kw_only=True):
    """What one role was paid for. ``usd`` is None where nobody told the model's price."""

    calls: int
    tokens_in: int
    tokens_out: int
    usd: float | None


class Ledger(Record, frozen=True, kw_only=True):
    """What the run made in fact: ``ledger.json`` beside the raw results.

    ``calls`` and ``roles`` count all that was ever paid for in this home, unfinished cells included;
    ``estimated_calls`` is the most that was foreseen for the finished cells; ``left_out`` says why a cell has no rows.
    ``seconds`` are those of the finished cells, over all their sessions.
    """

    cells: int = 0
    finished: int = 0
    calls: int = 0
    estimated_calls: int = 0
    seconds: float = 0.0
    roles: dict[str, Spent] = {}  # noqa: RUF012 -- msgspec copies it
    left_out: dict[str, str] = {}  # noqa: RUF012 -- msgspec copies it


def cell_file(
    protocol: Protocol, cell: Cell, tasks: Mapping[str, SearchTask], user_prompts: Mapping[str, UserPrompts]
) -> Path:
    """The cell's file; its name changes with everything that decides the result, and with nothing else."""
    entries = (*sources_of(protocol, cell.domain), *unseen_of(protocol, cell.domain))
    models = protocol.models
    if cell.base:
        models = replace(models, base=protocol.other_bases[cell.base - 1])
    if not cell.adapted and cell.method in (*PROMPTS, "constant"):
        models = replace(models, optimizer=None)
    spec = replace(
        journal_spec(models, tasks[entries[0].name], protocol.home),
        models=models,
        tasks=tuple(tasks[entry.name] for entry in entries),
        sizes=protocol.sizes,
        seed=cell.seed,
    )
    prompts = [user_prompts[entry.name].sha256 for entry in entries if entry.role == "unseen"]
    decisive = (cell, protocol.seed_prompt, protocol.ask, protocol.budget_calls, protocol.measure_sources, prompts)
    digest = hashlib.sha256(msgspec.json.encode(decisive))
    digest.update(fingerprint(spec).encode())
    title = cell.title.replace(", ", "-").replace(" ", "_")
    return protocol.home / "cells" / f"{title}-{digest.hexdigest()[:10]}.json"


def read_cell(path: Path) -> CellResult | None:
    """A finished cell, or None. Raises ``DataError`` for a damaged file."""
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=CellResult)
    except msgspec.DecodeError as error:
        raise DataError(f"{path} is damaged ({error}): remove it, its calls are still in the journals.") from error


def publish(protocol: Protocol, done: Mapping[Cell, CellResult], *, cells: int, estimated: int) -> None:
    """Write raw results, prompts and ledger. Rows of earlier runs in this home stay, unless these are newer."""
    home = protocol.home
    rows = {row.key: row for row in earlier_rows(home / "raw.jsonl")}
    rows.update((row.key, row) for found in done.values() for row in found.rows)
    write_lines(home / "raw.jsonl", rows.values())
    prompts = {(p.domain, p.method, p.seed, p.sha256): p for p in read_prompts(home / "prompts.jsonl")}
    prompts |= {
        (cell.domain, cell.method, cell.seed, sha256_of(found.outcome.prompt)): FoundPrompt(
            sha256=sha256_of(found.outcome.prompt),
            method=cell.method,
            domain=cell.domain,
            scope="global" if cell.domain == GLOBAL else "domain",
            seed=cell.seed,
            prompt=found.outcome.prompt,
            reason=found.outcome.reason,
        )
        for cell, found in done.items()
        if not found.left_out and cell.method != "constant"
    }
    write_lines(home / "prompts.jsonl", prompts.values())
    roles = _spent(protocol)
    ledger = Ledger(
        cells=cells,
        finished=len(done),
        calls=sum(spent.calls for spent in roles.values()),
        roles=roles,
        estimated_calls=estimated,
        seconds=round(sum(found.seconds for found in done.values()), 1),
        left_out={cell.title: found.left_out for cell, found in done.items() if found.left_out},
    )
    write_lines(home / "ledger.json", [ledger])


def read_ledger(path: Path) -> Ledger | None:
    """The ledger beside raw results, None when there is none. Raises ``DataError`` for a damaged one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ledger)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path} is no ledger ({error}): remove it, the next `metaspo paper run` writes it.") from error


def sha256_of(text: str) -> str:
    """The hex SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _spent(protocol: Protocol) -> dict[str, Spent]:
    """By role, what the journals hold. Other base models are counted at the price of the base model."""
    totals: dict[str, tuple[int, int, int]] = {}
    for path in sorted(protocol.home.rglob("*.journal")):
        journal = Journal(path)
        for role, found in journal.totals().items():
            calls, tokens_in, tokens_out = totals.get(role, (0, 0, 0))
            totals[role] = (calls + found[0], tokens_in + found[1], tokens_out + found[2])
        journal.close()
    spent = {}
    for role, (calls, tokens_in, tokens_out) in totals.items():
        model = protocol.models.role(cast(ModelRole, role))
        price = price_of(model) if model else None
        usd = round(price.of(tokens_in, tokens_out), 4) if price and price.known else None
        spent[role] = Spent(calls=calls, tokens_in=tokens_in, tokens_out=tokens_out, usd=usd)
    return spent
